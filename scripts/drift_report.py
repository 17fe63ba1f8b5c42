#!/usr/bin/env python3
"""Requests that an endpoint captured, beside what its model was measured on: one HTML page for eyes.

CAPTURED is a folder, or s3://BUCKET/PREFIX, with the JSON lines of SageMaker's data capture; REFERENCE the model's
folder, or its model.tar.gz. Pictures are compared by their own figures; where the answers were captured as .npy, by the
normals', too. The distances are the server's own (container/serving/drift.py), so that page and alarm agree. Not made
by the library `evidently`: that compares two tables of single values, where the model brings histograms alone, and it
comes with 81 packages, 1 GB (version 0.7.23).
"""

import argparse
import base64
import binascii
import io
import json
import sys
import tarfile
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from metrics_queries import one_line_errors  # noqa: E402
from serving.drift import kolmogorov_smirnov, population_stability_index  # noqa: E402
from surface_normals import axes, codecs  # noqa: E402
from surface_normals.description import DESCRIPTION  # noqa: E402
from surface_normals.drift_figures import describe  # noqa: E402
from surface_normals.training.figures import BLUE, GREY, draw  # noqa: E402

ALIKE, UNLIKE = 0.1, 0.25
"""Usual readings of the population stability index: below the first alike, above the second not."""
FEW = 200
"""Of fewer pictures chance alone makes distances large."""
OF_PICTURES = ("brightness", "contrast", "saturation", "sharpness", "long_side_pixels")
SHOWN = 8
THUMBNAIL_PIXELS = 220
STYLE = """
body { margin: 0 auto; max-width: 1100px; padding: 24px; font: 15px/1.5 system-ui, sans-serif; color: #23272e }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: 4px 14px; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #eceef1 }
.unlike { color: #b3401a; font-weight: 650 } .quiet { color: #6a707a }
.plots, .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 12px }
.pictures { grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); font-size: 13px } img { max-width: 100% }
svg { width: 100%; height: auto }
"""


@dataclass(frozen=True)
class Captured:
    """One request: the figures that can be told of it, and a small picture."""

    time: str
    figures: Mapping[str, float]
    thumbnail: bytes


class Unusable(ValueError):
    """A captured line that is no request of ours; the text says why."""


def main() -> None:
    options = parse_options()
    try:
        reference = read_reference(options.reference)
        with tempfile.TemporaryDirectory() as place, one_line_errors("drift_report"):
            folder = fetch(options.captured, Path(place)) if options.captured.startswith("s3://") else None
            captured, skipped = read_all(folder or Path(options.captured))
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"drift_report: {error}")
    distances = compare(captured, reference)
    options.out.write_text(page(captured, skipped, reference, distances), encoding="utf-8")
    for name, (psi, ks) in distances.items():
        print(f"{name:26} PSI {psi:6.3f}  KS {ks:5.3f}  {verdict(psi)}")
    print(f"{len(captured)} requests, {sum(skipped.values())} lines passed over; page: {options.out}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captured", metavar="CAPTURED")
    parser.add_argument(
        "--reference", type=Path, required=True, help="the model: its folder, or model.tar.gz"
    )
    parser.add_argument("--out", type=Path, default=Path("drift.html"), help="%(default)s")
    return parser.parse_args()


def read_reference(model: Path) -> dict[str, dict[str, list[float]]]:
    """What the model was measured on. Raises ValueError when it does not say."""
    if model.is_dir():
        text = (model / DESCRIPTION).read_bytes()
    else:
        with tarfile.open(model) as tar:
            member = next((one for one in tar if Path(one.name).name == DESCRIPTION and one.isfile()), None)
            if member is None:
                raise ValueError(f"{model} holds no {DESCRIPTION}")
            file = tar.extractfile(member)
            assert file is not None
            text = file.read()
    reference: dict[str, Any] = json.loads(text).get("reference") or {}
    if not reference:
        raise ValueError(f"{model} does not say what it was measured on: train with a channel `validation`")
    return reference


def fetch(uri: str, place: Path) -> Path:
    """The captured files below an S3 prefix, in a folder here."""
    import boto3

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [
        item["Key"] for found in pages for item in found.get("Contents", ()) if item["Key"].endswith(".jsonl")
    ]
    for number, key in enumerate(tqdm(keys, desc="fetch", disable=None)):
        s3.download_file(bucket, key, str(place / f"{number:06}.jsonl"))
    return place


def read_all(folder: Path) -> tuple[list[Captured], dict[str, int]]:
    """All requests below `folder`, and how many lines were passed over, by reason. Raises ValueError for none."""
    files = sorted(folder.rglob("*.jsonl"))
    captured, skipped = [], {}
    for path in tqdm(files, desc="read", disable=None):
        for line in path.read_text(errors="replace").splitlines():
            try:
                captured.append(read_line(line))
            except Unusable as error:
                skipped[str(error)] = skipped.get(str(error), 0) + 1
    if not captured:
        reasons = "; ".join(f"{count} lines: {reason}" for reason, count in skipped.items())
        raise ValueError(
            f"no captured request in {len(files)} .jsonl files below {folder}. {reasons}".strip()
        )
    return captured, skipped


def read_line(line: str) -> Captured:
    """One line of data capture. Raises Unusable."""
    try:
        record = json.loads(line)
        sent = record["captureData"]["endpointInput"]
        answer = record["captureData"].get("endpointOutput") or {}
        body = content(sent)
        time = str(record.get("eventMetadata", {}).get("inferenceTime", ""))
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise Unusable("not a line of data capture with its request") from None
    try:
        picture = decode(body)
    except ValueError as error:
        raise Unusable(f"the request is no picture: {str(error)[:60]}") from None
    normals = decode_normals(answer, picture.shape[:2])
    if normals is None:
        nothing = np.zeros((*picture.shape[:2], 4), np.float32)
        figures = {
            name: value for name, value in describe_both(picture, nothing).items() if name in OF_PICTURES
        }
    else:
        figures = describe_both(picture, normals)
        if normals.shape[2] == 3:
            del figures["expected_error_degrees"]
    return Captured(time, figures, thumbnail(picture))


def describe_both(picture: codecs.Picture, answer: np.ndarray) -> dict[str, float]:
    errors = answer[:, :, 3] if answer.shape[2] == 4 else np.zeros(answer.shape[:2], np.float32)
    return describe(picture, answer[:, :, :3], errors)


def content(side: Mapping[str, Any]) -> bytes:
    """The bytes that were sent: data capture writes all but text in base64."""
    data = side["data"]
    return base64.b64decode(data, validate=True) if side["encoding"] == "BASE64" else data.encode()


def decode(body: bytes) -> codecs.Picture:
    """Whatever the header said: the first bytes tell."""
    kinds = {
        b"\xff\xd8\xff": "image/jpeg",
        b"\x89PNG": "image/png",
        b"RIFF": "image/webp",
        b"\x93NUM": codecs.NPY,
    }
    for magic, media_type in kinds.items():
        if body.startswith(magic):
            return codecs.decode_picture(body, media_type)
    raise ValueError("neither JPEG, PNG, WebP nor .npy")


def decode_normals(answer: Mapping[str, Any], size: tuple[int, ...]) -> np.ndarray | None:
    """An answer in .npy, (H, W, 3 or 4), in `rdf`; None for any other: an 8-bit picture is too coarse."""
    try:
        body = content(answer)
        if not body.startswith(b"\x93NUM"):
            return None
        array = np.load(io.BytesIO(body), allow_pickle=False).astype(np.float32)
        _, _, rest = str(answer.get("observedContentType", "")).partition(";")
        named = dict(part.strip().split("=") for part in rest.split(";") if "=" in part)
        if array.shape[:2] != size or array.ndim != 3 or array.shape[2] not in (3, 4):
            return None
        array[:, :, :3] = axes.convert(array[:, :, :3], named.get("axes", "rdf"))
    except (ValueError, KeyError, TypeError, OSError, EOFError, binascii.Error):
        return None
    return array


def thumbnail(picture: codecs.Picture) -> bytes:
    image, file = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def values_of(name: str, captured: Sequence[Captured]) -> list[float]:
    return [one.figures[name] for one in captured if name in one.figures]


def counted(values: Sequence[float], histogram: Mapping[str, Sequence[float]]) -> list[int]:
    counts = [0] * len(histogram["counts"])
    for value in values:
        counts[bisect_right(histogram["edges"], value)] += 1
    return counts


def compare(
    captured: Sequence[Captured], reference: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[float, float]]:
    """PSI and KS of each figure that both know, the most unlike first."""
    found = {}
    for name, histogram in reference.items():
        if values := values_of(name, captured):
            seen = counted(values, histogram)
            psi = population_stability_index(seen, histogram["counts"])
            found[name] = psi, kolmogorov_smirnov(seen, histogram["counts"])
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def verdict(psi: float) -> str:
    return "alike" if psi < ALIKE else "somewhat unlike" if psi <= UNLIKE else "unlike"


def page(
    captured: Sequence[Captured],
    skipped: Mapping[str, int],
    reference: Mapping[str, Mapping[str, Any]],
    distances: Mapping[str, tuple[float, float]],
) -> str:
    """The page, which needs nothing else."""
    times = sorted(one.time for one in captured if one.time)
    span = f", {times[0]} to {times[-1]}" if times else ""
    measured_on = sum(next(iter(reference.values()))["counts"])
    few = (
        f"<p class=quiet>Of fewer than {FEW} pictures chance alone makes distances large.</p>"
        if min(len(captured), measured_on) < FEW
        else ""
    )
    passed = "".join(f"<li>{count} lines: {escape(reason)}</li>" for reason, count in skipped.items())
    rows = "".join(
        f"<tr{' class=unlike' if psi > UNLIKE else ''}><td>{name}</td><td>{psi:.3f}</td><td>{ks:.3f}</td>"
        f"<td>{verdict(psi)}</td></tr>"
        for name, (psi, ks) in distances.items()
    )
    absent = sorted(reference.keys() - distances.keys())
    untold = f"<p class=quiet>Not told by the captured answers: {', '.join(absent)}.</p>" if absent else ""
    off = "".join(furthest(captured, reference, distances))
    plots = "".join(plot(name, captured, reference[name]) for name in distances)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Drift</title><style>{STYLE}</style>
<h1>Requests beside what the model was measured on</h1>
<p>{len(captured)} captured requests{span}; the model was measured on {measured_on} pictures.
Made {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}.</p>{few}
<ul>{passed}</ul>
<table><tr><th>figure</th><th>PSI</th><th>KS</th><th></th></tr>{rows}</table>{untold}
<h2>Shares of the reference's bins</h2><div class=plots>{plots}</div>
<h2>Furthest off by {next(iter(distances))}</h2><div class=pictures>{off}</div>
</html>"""


def plot(name: str, captured: Sequence[Captured], histogram: Mapping[str, Any]) -> str:
    seen, expected = counted(values_of(name, captured), histogram), histogram["counts"]
    edges = [f"{edge:.3g}" for edge in histogram["edges"]]
    labels = [f"< {edges[0]}", *edges] if edges else ["all"]

    def fill(plot_axes: Any) -> None:
        places = np.arange(len(expected))
        plot_axes.bar(places - 0.2, np.array(expected) / sum(expected), 0.4, color=GREY, label="reference")
        plot_axes.bar(places + 0.2, np.array(seen) / sum(seen), 0.4, color=BLUE, label="requests")
        plot_axes.set_xticks(places, labels, rotation=40, fontsize=7)
        plot_axes.legend()

    return draw(name, "", "share", fill)


def furthest(
    captured: Sequence[Captured],
    reference: Mapping[str, Mapping[str, Any]],
    distances: Mapping[str, tuple[float, float]],
) -> Iterator[str]:
    """The pictures that lie furthest from the middle of the reference by the figure that is most unlike."""
    name = next(iter(distances))
    edges = reference[name]["edges"]
    middle = edges[len(edges) // 2] if edges else 0.0
    known = [one for one in captured if name in one.figures]
    for one in sorted(known, key=lambda one: -abs(one.figures[name] - middle))[:SHOWN]:
        picture = base64.b64encode(one.thumbnail).decode()
        told = f"{one.figures[name]:.3g}<br>{escape(one.time)}"
        yield f'<div><img alt="" src="data:image/jpeg;base64,{picture}">{told}</div>'


if __name__ == "__main__":
    main()
