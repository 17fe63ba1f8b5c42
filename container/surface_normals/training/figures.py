"""Part of the report: its plots, as SVG that stands inside the page.

matplotlib is imported when a plot is drawn, not before: a second that only the end of a job needs.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

from surface_normals.training.calibration import SHARES, Calibration
from surface_normals.training.edges import DistanceBin
from surface_normals.training.health import GRADIENT_NORM, OBJECTIVE, PARTS, TRAIN_ERROR
from surface_normals.training.record import Series

BLUE, ORANGE, GREEN, GREY = "#2f6fb0", "#e07b39", "#3f9b6d", "#8a8f98"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e6e8ec",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # letters stay letters: small, and they can be searched
}
SIZE_INCHES = (5.2, 2.8)
MARGINS = (0.12, 0.18, 0.86, 0.7)
"""left, bottom, width and height of the axes; matplotlib's own layouts draw everything once more to measure it"""
Axes = Any
"""matplotlib's, which is imported late"""


def draw(title: str, x_label: str, y_label: str, fill: Callable[[Axes], None]) -> str:
    """An <svg> element; `fill` draws into matplotlib's axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):  # no two plots of a page share an id
        figure = Figure(figsize=SIZE_INCHES)
        axes = figure.add_axes(MARGINS)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        fill(axes)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def curves(series: Series, best_constant: float | None) -> list[str]:
    """The run over its steps: one plot for each kind of number there is."""

    def lines(
        *names: tuple[str, str, str], log: bool = False, floor: float | None = None
    ) -> Callable[[Axes], None]:
        def fill(axes: Axes) -> None:
            for name, label, colour in names:
                if points := series.get(name):
                    mark = "o" if len(points) < 40 else ""
                    axes.plot(
                        *zip(*points, strict=True), color=colour, label=label, marker=mark, markersize=3
                    )
            if floor is not None:
                axes.axhline(floor, color=GREY, linestyle="--", linewidth=1, label="best constant answer")
            if log:
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
            if len(axes.get_legend_handles_labels()[0]) > 1:
                axes.legend(fontsize=8)

        return fill

    parts = zip(PARTS, (BLUE, ORANGE, GREEN), strict=True)
    plots = [
        (
            "Angular error",
            "degrees",
            (TRAIN_ERROR, OBJECTIVE),
            lines((TRAIN_ERROR, "training", BLUE), (OBJECTIVE, "validation", ORANGE), floor=best_constant),
        ),
        ("Training loss", "nats", ("train_loss",), lines(("train_loss", "loss", BLUE))),
        (
            "Gradient norm",
            "norm before clipping",
            (GRADIENT_NORM,),
            lines(
                (GRADIENT_NORM, "all", GREY),
                *((f"{GRADIENT_NORM}_{part}", part, colour) for part, colour in parts),
                log=True,
            ),
        ),
        ("Learning rate", "rate", ("learning_rate",), lines(("learning_rate", "rate", BLUE))),
        ("Speed", "pictures a second", ("images_per_second",), lines(("images_per_second", "speed", BLUE))),
        (
            "Waiting for data",
            "percent of the time",
            ("data_wait_percent",),
            lines(("data_wait_percent", "waiting", BLUE)),
        ),
    ]
    return [
        draw(title, "step", unit, fill)
        for title, unit, names, fill in plots
        if any(name in series for name in names)
    ]


def reliability(calibration: Calibration) -> str:
    """Expected against true error, group by group of pixels of like confidence."""
    bins = calibration.bins()

    def fill(axes: Axes) -> None:
        expected, true = [b.expected_error_degrees for b in bins], [b.true_error_degrees for b in bins]
        end = 1.05 * max(*expected, *true, 1.0)
        axes.plot([0, end], [0, end], color=GREY, linestyle="--", linewidth=1, label="perfect")
        axes.plot(expected, true, color=BLUE, marker="o", markersize=4, label="model")
        axes.set(xlim=(0, end), ylim=(0, end))
        axes.legend(fontsize=8)

    return draw("Does it know its error?", "expected error, degrees", "true error, degrees", fill)


def sparsification(calibration: Calibration) -> str:
    """Mean error of what is left when the least sure pixels are taken away, and at best."""

    def fill(axes: Axes) -> None:
        shown = slice(0, -20, 10)  # at the end a handful of pixels remains
        for ranking, label, colour in (
            (calibration.by_confidence, "least sure first", BLUE),
            (calibration.by_error, "worst first (the best possible)", GREEN),
        ):
            axes.plot(
                100 * SHARES[shown], ranking.mean_error_without(SHARES)[shown], color=colour, label=label
            )
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)

    title = f"Taking the unsure pixels away (AUSE {calibration.ause():.2f} degrees)"
    return draw(title, "percent taken away", "mean error of the rest, degrees", fill)


def edge_bars(bins: Sequence[DistanceBin]) -> str:
    """Mean error by distance to the nearest edge of the truth."""

    def fill(axes: Axes) -> None:
        labels = [
            f"over {b.over_pixels}" if b.up_to_pixels is None
            else f"{b.up_to_pixels}" if b.up_to_pixels == b.over_pixels + 1
            else f"{b.over_pixels + 1} to {b.up_to_pixels}"
            for b in bins
        ]  # fmt: skip
        bars = axes.bar(labels, [b.mean_error_degrees for b in bins], color=BLUE)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.12)

    return draw("Error near edges", "pixels to the nearest edge", "mean error, degrees", fill)
