"""The agent's newest samples as a Prometheus text file, which the server's /metrics route appends.

A file and not a socket: reading it costs the server nothing, and cannot hang when the driver does.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from metrics.sample import GpuSample

# Name, help, value of one sample.
GAUGES: Sequence[tuple[str, str, Callable[[GpuSample], int | float | None]]] = (
    (
        "gpu_utilization_ratio",
        "Share of the driver's last sampling period in which at least one kernel ran, 0 to 1.",
        lambda sample: None if sample.utilization_percent is None else sample.utilization_percent / 100,
    ),
    ("gpu_memory_used_bytes", "GPU memory allocated by processes.", lambda sample: sample.memory_used_bytes),
    ("gpu_memory_total_bytes", "GPU memory in all.", lambda sample: sample.memory_total_bytes),
    ("gpu_power_watts", "Power drawn by the GPU board.", lambda sample: sample.power_watts),
    ("gpu_temperature_celsius", "Temperature of the GPU chip.", lambda sample: sample.temperature_celsius),
)

_log = logging.getLogger(__name__)


class Snapshot:
    """The file at `path`; without a path nothing happens. An unwritable one is reported once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writable = True
        self._temperatures: dict[int, int] = {}

    def replace(self, samples: Sequence[GpuSample]) -> None:
        """Rewrite the file in one step: a reader sees the old text or the new."""
        if self._path is None or not self._writable:
            return
        temporary = _temporary(self._path)
        try:
            temporary.write_text(
                text([self._with_temperature(sample) for sample in samples]), encoding="ascii"
            )
            temporary.replace(self._path)
        except OSError as error:
            self._writable = False
            self.remove()
            _log.warning("no GPU figures in /metrics: cannot write %s (%s)", self._path, error.strerror)

    def _with_temperature(self, sample: GpuSample) -> GpuSample:
        """The sample with the last known temperature: it is not read each time."""
        if sample.temperature_celsius is not None:
            self._temperatures[sample.gpu] = sample.temperature_celsius
        known = None if sample.lost else self._temperatures.get(sample.gpu)
        return dataclasses.replace(sample, temperature_celsius=known)

    def remove(self) -> None:
        """Take the file away, and what a killed writer left beside it: old numbers are not served as new."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                _temporary(self._path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def text(samples: Sequence[GpuSample]) -> str:
    """One sample per GPU in Prometheus's text format; a figure that nobody reports is left out."""
    lines = []
    for name, explanation, value_of in GAUGES:
        values = [(sample.gpu, value_of(sample)) for sample in samples]
        known = [(gpu, value) for gpu, value in values if value is not None]
        if known:
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} gauge"]
            lines += [f'{name}{{gpu="{gpu}"}} {value}' for gpu, value in known]
    return "".join(f"{line}\n" for line in lines)
