"""End of a job: report.html, one page that needs nothing else: what was trained, how it went, where it is wrong."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surface_normals.training import figures
from surface_normals.training.config import Config
from surface_normals.training.evaluation import THRESHOLDS_DEGREES, Evaluation
from surface_normals.training.health import Finding
from surface_normals.training.panels import ERROR_SCALE_DEGREES, NO_TRUTH, Panel
from surface_normals.training.record import Series

COLOUR_MAP = "inferno"
STYLE = """
:root { color-scheme: light }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #23272e; background: #f4f5f7 }
main { max-width: 1160px; margin: 0 auto; padding: 24px 20px 60px }
h1 { margin: 0; font-size: 26px } h2 { margin: 34px 0 10px; font-size: 19px }
p { margin: 6px 0; max-width: 75ch } .quiet { color: #6a707a; font-size: 13px }
.card { background: #fff; border: 1px solid #e3e5e9; border-radius: 8px; padding: 14px 18px }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 }
.tile b { display: block; font-size: 26px; font-weight: 650 } .tile { min-width: 120px }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 12px }
.plots svg { width: 100%; height: auto; display: block }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid #eceef1; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; color: #6a707a; font-size: 13px }
tr.model td { font-weight: 650 }
.finding { border-left: 5px solid #e07b39; margin-bottom: 10px } .well { border-left: 5px solid #3f9b6d }
.settings { columns: 3 260px; column-gap: 30px; margin: 0; padding: 0; list-style: none; font-size: 14px }
.settings li { display: flex; justify-content: space-between; border-bottom: 1px solid #eceef1 }
.settings .changed { font-weight: 650 }
.panels { display: grid; grid-template-columns: repeat(5, minmax(120px, 1fr)); gap: 6px }
.panels div { font-size: 13px; color: #6a707a } .panels .name { grid-column: 1 / -1; overflow-wrap: anywhere }
.panels img { width: 100%; display: block; border-radius: 3px; image-rendering: auto }
.scale { height: 10px; width: 240px; border-radius: 3px; display: inline-block; vertical-align: middle }
"""


@dataclass(frozen=True)
class Run:
    """What the report is about."""

    config: Config
    step: int
    num_steps: int
    series: Series
    evaluation: Evaluation | None
    """The last measurement, None when there was none."""
    evaluated_at: int
    constants: dict[str, dict[str, float]]
    """The eight numbers of answers that do not look at the picture, by name."""
    findings: list[Finding]
    facts: dict[str, str]
    """More to say of the run, such as its versions, by name."""
    gpu_use: dict[str, str]
    """`verdict` and figures of the GPUs' use; empty where nobody watched them."""


def render(run: Run) -> str:
    """The page. Everything that comes from the user's data or settings is escaped."""
    complete = run.step >= run.num_steps
    state = "complete" if complete else f"stopped after step {run.step} of {run.num_steps}"
    objectives = [metrics["mean_angular_error"] for metrics in run.constants.values()]
    best_constant = min(objectives, default=None)
    parts = [
        f"<h1>Surface normals: training report</h1><p class=quiet>{escape(state)}, {run.step} steps. "
        "Angular errors in degrees, of all valid pixels together.</p>",
        _tiles(run, best_constant),
        _findings(run.findings),
        _table(run),
        _section("Curves", _plots(figures.curves(run.series, best_constant))),
    ]
    if run.evaluation:
        parts += _measured(run.evaluation)
    parts += [_gpu_use(run.gpu_use), _settings(run)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Training report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, content: str, remark: str = "") -> str:
    remark = f"<p class=quiet>{escape(remark)}</p>" if remark else ""
    return f"<h2>{escape(title)}</h2>{remark}{content}" if content else ""


def _tiles(run: Run, best_constant: float | None) -> str:
    tiles: list[tuple[str, str]] = []
    if run.evaluation:
        metrics = run.evaluation.metrics()
        tiles = [
            ("mean error", f"{metrics['mean_angular_error']:.2f}°"),
            ("median error", f"{metrics['median_angular_error']:.2f}°"),
            ("within 11.25°", f"{metrics['percent_below_11_25']:.1f} %"),
            ("AUSE of the confidence", f"{run.evaluation.calibration.ause():.2f}°"),
        ]
        if best_constant:
            share = 100 * metrics["mean_angular_error"] / best_constant
            tiles.append(("of the best constant's error", f"{share:.0f} %"))
    return (
        "<div class=tiles>"
        + "".join(f"<div class='card tile'><b>{value}</b>{escape(name)}</div>" for name, value in tiles)
        + "</div>"
    )


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return _section("Health", "<div class='card well'>No rule of training health found anything.</div>")
    cards = (
        f"<div class='card finding'><b>{escape(finding.name)}</b><p>{escape(finding.evidence)}.</p>"
        f"<p class=quiet>To try: {escape(finding.advice)}.</p></div>"
        for finding in findings
    )
    return _section("Health", "".join(cards))


def _table(run: Run) -> str:
    if not run.evaluation:
        return _section("Errors", "<div class=card>The model was not measured.</div>")
    heads = ["mean", "median", "RMSE", *(f"&lt; {threshold:g}°" for threshold in THRESHOLDS_DEGREES)]
    rows = []
    for name, metrics in {"the model": run.evaluation.metrics(), **run.constants}.items():
        cells = (
            f"<td>{v:.2f}°</td>" if i < 3 else f"<td>{v:.1f} %</td>" for i, v in enumerate(metrics.values())
        )
        mark = " class=model" if name == "the model" else ""
        rows.append(f"<tr{mark}><td>{escape(name)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{head}</th>" for head in heads)
    return _section(
        "Errors on channel validation",
        f"<div class='card wide'><table><tr><th></th>{head}</tr>{''.join(rows)}</table></div>",
        f"Measured after step {run.evaluated_at}. The other rows are answers that do not look at the picture: "
        "a model that is not clearly better has learnt nothing.",
    )


def _plots(plots: Iterable[str]) -> str:
    cards = "".join(f"<div class=card>{plot}</div>" for plot in plots)
    return cards and f"<div class=plots>{cards}</div>"


def _measured(evaluation: Evaluation) -> list[str]:
    calibration, edges = evaluation.calibration, evaluation.edges.bins()
    plots = [figures.reliability(calibration), figures.sparsification(calibration)]
    if edges:
        plots.append(figures.edge_bars(edges))
    colours = _colour_table()
    stops = ", ".join(f"rgb{tuple(int(c) for c in colours[level])}" for level in range(0, 256, 15))
    scale = (
        f"<p class=quiet>0° <span class=scale style='background: linear-gradient(90deg, {stops})'></span> "
        f"{ERROR_SCALE_DEGREES:g}° and more: the same scale in all pictures</p>"
    )
    worst, fixed = evaluation.panels.worst, evaluation.panels.fixed
    return [
        _section("Confidence and edges", _plots(plots)),
        _section(f"The {len(worst)} worst pictures", scale + _panels(worst, colours)),
        _section("The same pictures in every report", scale + _panels(fixed, colours)),
    ]


def _panels(panels: Sequence[Panel], colours: NDArray[np.uint8]) -> str:
    heads = "".join(
        f"<div>{head}</div>" for head in ("picture", "prediction", "truth", "error", "expected error")
    )
    rows = []
    for panel in panels:
        grey = np.uint8(NO_TRUTH)
        error = np.where(panel.valid[:, :, None], colours[panel.error], grey)
        images = (panel.picture, panel.prediction, panel.truth, error, colours[panel.expected_error])
        rows.append(
            f"<div class=name>{escape(panel.name)}: {panel.mean_error_degrees:.1f}°</div>"
            + "".join(f'<img alt="" src="{_data_uri(image)}">' for image in images)
        )
    return f"<div class='card panels'>{heads}{''.join(rows)}</div>"


def _colour_table() -> NDArray[np.uint8]:
    """(256, 3)"""
    import matplotlib as mpl

    table: NDArray[np.uint8] = mpl.colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]
    return table


def _data_uri(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _gpu_use(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in rows.items()
        if name != "verdict"
    )
    table = f"<div class='card wide'><table>{cells}</table></div>" if cells else ""
    return _section("Use of the GPUs", f"<p>{escape(rows['verdict'])}</p>{table}") if rows else ""


def _settings(run: Run) -> str:
    defaults = {row.name: row.default for row in fields(Config)}
    rows = [
        f"<li{' class=changed' if value != defaults[name] else ''}><span>{escape(name)}</span>"
        f"<span>{escape(str(value))}</span></li>"
        for name, value in asdict(run.config).items()
    ]
    facts = [
        f"<li><span>{escape(name)}</span><span>{escape(value)}</span></li>"
        for name, value in run.facts.items()
    ]
    return _section(
        "Configuration",
        f"<div class=card><ul class=settings>{''.join(rows)}</ul></div>",
        "Bold: not the default.",
    ) + _section("Environment", f"<div class=card><ul class=settings>{''.join(facts)}</ul></div>")
