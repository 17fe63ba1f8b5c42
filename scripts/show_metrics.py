#!/usr/bin/env python3
"""The last hour of a training job or an endpoint, as CloudWatch has it: a table with sparklines, and a picture.

show_metrics.py my-job
show_metrics.py my-endpoint --hours 24 --png day.png
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from launching.calls import Aws
from metrics_queries import Curve, add_region, curves, one_line_errors

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 40
COLUMNS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    with one_line_errors("show_metrics"):
        now = datetime.now(timezone.utc)
        owners = [{key: options.name} for key in ("JobName", "Endpoint")]
        client = Aws(options.region).client("cloudwatch")
        found = curves(client, owners, now - timedelta(hours=options.hours), now + timedelta(minutes=1))
    if not found:
        sys.exit(
            f"show_metrics: no metric of {options.name!r} in the last {options.hours:g} h: the first ones take some "
            "three minutes; `doctor.py` looks for the reason"
        )
    print(table(found))
    if options.png:
        draw(found, options.png)
        print(f"picture: {options.png}")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the training job or endpoint")
    parser.add_argument("--hours", type=float, default=1.0, help="to look back")
    parser.add_argument("--png", type=Path, help="also draw the curves into this file")
    add_region(parser)
    return parser.parse_args(arguments)


def table(found: Sequence[Curve]) -> str:
    """A row for each series: last, mean and largest minute, and how it went."""
    metric = max(len(curve.metric) for curve in found)
    owner = max(len("host"), *(len(curve.owner) for curve in found))
    lines = [f"{'metric':{metric}}  {'host':{owner}}  {'last':>9}  {'mean':>9}  {'largest':>9}"]
    for curve in found:
        mean = sum(curve.values) / len(curve.values)
        lines.append(
            f"{curve.metric:{metric}}  {curve.owner:{owner}}  {curve.values[-1]:9.4g}  {mean:9.4g}  "
            f"{max(curve.values):9.4g}  {sparkline(curve.values)}"
        )
    return "\n".join(lines)


def sparkline(values: Sequence[float]) -> str:
    """At most SPARKS blocks from the smallest value to the largest; each the mean of the minutes under it."""
    count = min(SPARKS, len(values))
    groups = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)


def draw(found: Sequence[Curve], path: Path) -> None:
    """A small plot for each metric, a line for each host or GPU."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import dates
    from matplotlib import pyplot as plt

    names = sorted({curve.metric for curve in found})
    rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(5 * COLUMNS, 2.4 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for curve in (curve for curve in found if curve.metric == name):
            axis.plot(curve.times, curve.values, marker=".", label=curve.owner)
        axis.set_title(name, fontsize=10)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
