"""Turns a minute's samples into lines of CloudWatch's Embedded Metric Format (EMF).

One line per GPU and minute, all under the same dimensions, every sample's value in it: so
CloudWatch's Average is the mean over the host's GPUs, its Maximum and Minimum are the worst GPU,
and percentiles are exact, yet there is one series per figure and not one per GPU (the number of
series is the bill). `Gpu` and the memory sizes in bytes are plain properties: free, and searchable
in Logs Insights.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from metrics.sample import GpuSample

NAMESPACE = "VisionContainers"

# A write of at most PIPE_BUF bytes reaches a pipe in one piece, whoever else writes to it (POSIX;
# 4,096 on Linux). CloudWatch takes no byte before or after an EMF line's JSON.
LINE_BYTES = 4096
# CloudWatch user guide, "Specification: Embedded metric format": members of a metric's array.
# Its limit of 100 metrics a line is far above the table below.
VALUES_PER_ARRAY = 100
# CloudWatch API reference, "Dimension" and "MetricDatum"; names and values are ASCII.
DIMENSIONS = 30
DIMENSION_NAME_CHARACTERS = 255
DIMENSION_VALUE_CHARACTERS = 1024

Number = int | float

# Name, CloudWatch unit ("None" where CloudWatch has no such unit), value of one sample.
METRICS: Sequence[tuple[str, str, Callable[[GpuSample], Number | None]]] = (
    ("GpuUtilization", "Percent", lambda sample: sample.utilization_percent),
    ("GpuMemoryUsedPercent", "Percent", lambda sample: _memory_used_percent(sample)),
    ("GpuPowerWatts", "None", lambda sample: _rounded(sample.power_watts, 1)),
    ("GpuTemperatureCelsius", "None", lambda sample: sample.temperature_celsius),
    ("GpuLost", "Count", lambda sample: 1 if sample.lost else None),
)


def check(phase: str, dimensions: Mapping[str, str]) -> None:
    """Raise ValueError, naming the dimension, if CloudWatch would refuse lines with these."""
    if "Project" not in dimensions:
        raise ValueError("the dimension Project is missing: alarms hang on Project and Phase")
    if len(dimensions) > DIMENSIONS:
        raise ValueError(f"{len(dimensions)} dimensions, CloudWatch takes at most {DIMENSIONS}")
    for name, value in {**dimensions, "Phase": phase}.items():
        for text, characters in ((name, DIMENSION_NAME_CHARACTERS), (value, DIMENSION_VALUE_CHARACTERS)):
            if not (text.strip() and text.isascii() and text.isprintable() and len(text) <= characters):
                raise ValueError(
                    f"dimension {name!r} = {value!r}: CloudWatch takes 1 to {characters} printable ASCII characters"
                )
    largest = GpuSample(999, 100, 2**64 - 1, 2**64 - 1, 2**32 / 1000, 2**32, lost=True)
    size = len(_line([largest], phase, dimensions, timestamp_milliseconds=10**13))
    if size > LINE_BYTES:
        raise ValueError(
            f"the dimensions are too long: a line would have {size} bytes, at most {LINE_BYTES} fit"
        )


def lines(
    samples: Sequence[GpuSample], *, phase: str, dimensions: Mapping[str, str], timestamp_milliseconds: int
) -> Iterator[bytes]:
    """One period's samples of all GPUs as lines of at most LINE_BYTES bytes, newline included.

    `phase` and `dimensions` have passed `check`. Each line carries the dimension sets
    [Project, Phase] and [the names in `dimensions`]. `timestamp_milliseconds`: of the period's
    start, since 1970 UTC.
    """
    for gpu in sorted({sample.gpu for sample in samples}):
        of_gpu = [sample for sample in samples if sample.gpu == gpu]
        yield from _fitting(of_gpu, phase, dimensions, timestamp_milliseconds)


def _fitting(
    samples: Sequence[GpuSample], phase: str, dimensions: Mapping[str, str], timestamp_milliseconds: int
) -> Iterator[bytes]:
    """One line, or twice the half of it: CloudWatch adds up lines of the same minute."""
    line = _line(samples, phase, dimensions, timestamp_milliseconds)
    if len(samples) > 1 and (len(samples) > VALUES_PER_ARRAY or len(line) > LINE_BYTES):
        middle = len(samples) // 2
        yield from _fitting(samples[:middle], phase, dimensions, timestamp_milliseconds)
        yield from _fitting(samples[middle:], phase, dimensions, timestamp_milliseconds)
    elif line:
        yield line


def _line(
    samples: Sequence[GpuSample], phase: str, dimensions: Mapping[str, str], timestamp_milliseconds: int
) -> bytes:
    """The EMF document of one GPU's samples; empty if they hold no value at all."""
    directives = []
    values: dict[str, list[Number]] = {}
    for name, unit, value_of in METRICS:
        known = [value for value in map(value_of, samples) if value is not None]
        if known:
            directives.append({"Name": name, "Unit": unit})
            values[name] = known
    if not values:
        return b""
    document = {
        "_aws": {
            "Timestamp": timestamp_milliseconds,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["Project", "Phase"], list(dimensions)],
                    "Metrics": directives,
                }
            ],
        },
        **dimensions,
        "Phase": phase,
        "Gpu": samples[0].gpu,
        **_memory_bytes(samples),
        **values,
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _memory_bytes(samples: Sequence[GpuSample]) -> dict[str, int]:
    used = [sample.memory_used_bytes for sample in samples if sample.memory_used_bytes is not None]
    total = [sample.memory_total_bytes for sample in samples if sample.memory_total_bytes is not None]
    peaks = {}
    if used:
        peaks["GpuMemoryUsedMaxBytes"] = max(used)
    if total:
        peaks["GpuMemoryTotalBytes"] = max(total)
    return peaks


def _memory_used_percent(sample: GpuSample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return round(100 * sample.memory_used_bytes / sample.memory_total_bytes, 2)


def _rounded(value: float | None, digits: int) -> float | None:
    """Rounded at the source: a figure's noise would triple its bytes."""
    return None if value is None else round(value, digits)
