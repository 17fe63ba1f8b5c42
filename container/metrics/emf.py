"""Turns a minute's series into lines of CloudWatch's Embedded Metric Format (EMF).

One line per GPU and minute, every sample's value in it, and one of the host's own figures: so
CloudWatch's Average is the mean over the host's GPUs, its Maximum and Minimum are the worst GPU,
and percentiles are exact. `Gpu` is a plain property below the level `gpu`: free, and searchable in
Logs Insights. Likewise `Figure`, of which drift has one line each, and always `Boot`.
"""

import json
from collections.abc import Iterator, Sequence

from metrics.catalogue import METRICS, Part, Series
from metrics.cloudwatch import EMF_METRICS, EMF_VALUES, NAMESPACE, Identity

# A write of at most PIPE_BUF bytes reaches a pipe in one piece, whoever else writes to it (POSIX;
# 4,096 on Linux). CloudWatch takes no byte before or after an EMF line's JSON.
LINE_BYTES = 4096
FIGURE_CHARACTERS = 64
"""Of the name of a figure that requests are described by: lines have room for it."""


def check(identity: Identity) -> None:
    """Raise ValueError if not even a line of one value would have room beside the dimensions."""
    identity.check()
    largest = Series(max(METRICS, key=len), (-1.2345e-300,), Part("Figure", "x" * FIGURE_CHARACTERS))
    size = len(_line([largest], identity, 10**13))
    if size > LINE_BYTES:
        raise ValueError(
            f"the dimensions are too long: a line would have {size} bytes, at most {LINE_BYTES} fit"
        )


def lines(series: Sequence[Series], identity: Identity, timestamp_milliseconds: int) -> Iterator[bytes]:
    """One period's series as lines of at most LINE_BYTES bytes, newline included.

    `identity` has passed `check`. `timestamp_milliseconds`: of the period's start, since 1970 UTC.
    """
    parts = dict.fromkeys(one.part for one in series if one.values)
    for part in sorted(parts, key=lambda part: part is not None):  # the host first
        of_part = [one for one in series if one.part == part and one.values]
        yield from _fitting(of_part, identity, timestamp_milliseconds)


def _fitting(series: Sequence[Series], identity: Identity, timestamp_milliseconds: int) -> Iterator[bytes]:
    """One line, or twice the half of it: CloudWatch adds up lines of the same minute."""
    if len(series) <= EMF_METRICS and all(len(one.values) <= EMF_VALUES for one in series):
        line = _line(series, identity, timestamp_milliseconds)
        if len(line) <= LINE_BYTES:
            yield line
            return
    for half in _halves(series):
        yield from _fitting(half, identity, timestamp_milliseconds)


def _halves(series: Sequence[Series]) -> tuple[Sequence[Series], Sequence[Series]]:
    if len(series) > 1:
        middle = len(series) // 2
        return series[:middle], series[middle:]
    (only,) = series
    middle = len(only.values) // 2
    return (
        [Series(only.name, only.values[:middle], only.part)],
        [Series(only.name, only.values[middle:], only.part)],
    )


def _line(series: Sequence[Series], identity: Identity, timestamp_milliseconds: int) -> bytes:
    """The EMF document of series that belong to one part of the host, or to the host."""
    part = series[0].part
    sets = identity.sets(part)
    document = {
        "_aws": {
            "Timestamp": timestamp_milliseconds,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [list(names) for names in sets],
                    "Metrics": [{"Name": one.name, "Unit": one.unit} for one in series],
                }
            ],
        },
        **identity.dimensions,
        "Phase": identity.phase,
        "Boot": identity.boot,
        **({} if part is None else dict([part])),
        **{one.name: one.values for one in series},
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"
