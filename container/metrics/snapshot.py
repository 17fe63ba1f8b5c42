"""The agent's newest figures as a Prometheus text file, which the server's /metrics route appends.

A file and not a socket: reading it costs the server nothing, and cannot hang when the driver does.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metrics.sample import GpuSample
from metrics.work import Message, values

BYTES_PER_MEBIBYTE = 2**20
Number = int | float

# Name: what it says, and its value in one sample; None: not known, or not asked this time.
GAUGES: Mapping[str, tuple[str, Callable[[GpuSample], Number | None]]] = {
    "gpu_utilization_ratio": (
        "Share of the driver's last sampling period in which at least one kernel ran, 0 to 1.",
        lambda sample: _ratio(sample.utilization_percent),
    ),
    "gpu_memory_used_bytes": (
        "GPU memory allocated by processes.",
        lambda sample: sample.memory_used_bytes,
    ),
    "gpu_memory_total_bytes": ("GPU memory in all.", lambda sample: sample.memory_total_bytes),
    "gpu_power_watts": ("Power drawn by the GPU board.", lambda sample: sample.power_watts),
    "gpu_temperature_celsius": (
        "Temperature of the GPU chip, read every tenth time.",
        lambda sample: sample.temperature_celsius,
    ),
    "gpu_throttled": (
        "1 while heat, a power brake or the board's protection holds the clock down, else 0.",
        lambda sample: None if sample.throttled is None else int(sample.throttled),
    ),
    "gpu_power_capped": (
        "1 while the power limit holds the clock down, else 0.",
        lambda sample: None if sample.power_capped is None else int(sample.power_capped),
    ),
    "gpu_sm_active_ratio": (
        "Multiprocessors at work, 0 to 1.",
        lambda sample: _ratio(sample.sm_active_percent),
    ),
    "gpu_tensor_active_ratio": (
        "Tensor cores at work, 0 to 1.",
        lambda sample: _ratio(sample.tensor_active_percent),
    ),
    "gpu_memory_bandwidth_ratio": (
        "Use of the memory's bandwidth, 0 to 1.",
        lambda sample: _ratio(sample.memory_bandwidth_percent),
    ),
    "gpu_nvlink_received_bytes_per_second": (
        "From other GPUs over NVLink.",
        lambda sample: _bytes(sample.nvlink_received_mebibytes_per_second),
    ),
    "gpu_nvlink_sent_bytes_per_second": (
        "To other GPUs over NVLink.",
        lambda sample: _bytes(sample.nvlink_sent_mebibytes_per_second),
    ),
    "gpu_lost": ("1 for a GPU that the driver has lost.", lambda sample: 1 if sample.lost else None),
}
COUNTERS: Mapping[str, tuple[str, Callable[[GpuSample], Number | None]]] = {
    "gpu_energy_joules_total": ("Energy since the sampler's start.", lambda sample: sample.energy_joules),
    "gpu_memory_errors_total": (
        "Uncorrectable memory errors and replaced rows since then.",
        lambda sample: sample.errors,
    ),
    "gpu_xid_errors_total": ("Errors that the driver reported since then.", lambda sample: sample.xids),
}
STANDING = "gpu_temperature_celsius"
"""It is read less often than the rest: the last one stands."""
DRIFT = {
    "inference_drift_psi": "How unlike the reference the requests are (population stability index), as last told.",
    "inference_drift_ks": "The same as Kolmogorov and Smirnov's distance, 0 to 1.",
}

_log = logging.getLogger(__name__)


class Snapshot:
    """The file at `path`; without a path nothing happens. An unwritable one is reported once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writable = True
        self._of_gpu: dict[int, dict[str, Number]] = {}
        self._drift: dict[tuple[str, str], float] = {}

    def add_work(self, message: Message) -> None:
        """Take the distances of drift from what the workers tell; they stand until the next ones."""
        for told in message:
            distance, _, figure = told.partition(":")
            name = f"inference_{distance}"
            if figure and name in DRIFT:
                self._drift[name, figure] = values(message, told)[-1]

    def replace(self, samples: Sequence[GpuSample]) -> None:
        """Rewrite the file in one step: a reader sees the old text or the new. Where nothing is known there is none."""
        if self._path is None or not self._writable:
            return
        for sample in samples:
            self._of_gpu[sample.gpu] = _figures(sample, self._of_gpu.get(sample.gpu, {}))
        if not self._of_gpu and not self._drift:
            return
        temporary = _temporary(self._path)
        try:
            temporary.write_text(self._text(), encoding="ascii")
            temporary.replace(self._path)
        except OSError as error:
            self._writable = False
            self.remove()
            _log.warning("no GPU figures in /metrics: cannot write %s (%s)", self._path, error.strerror)

    def _text(self) -> str:
        """All that is known in Prometheus's text format; a figure that nobody reports is left out."""
        lines = []
        for kind, names in (("gauge", GAUGES), ("counter", COUNTERS)):
            for name, (explanation, _) in names.items():
                known = {gpu: figures[name] for gpu, figures in self._of_gpu.items() if name in figures}
                lines += _family(name, kind, explanation, {f'gpu="{gpu}"': known[gpu] for gpu in known})
        for name, explanation in DRIFT.items():
            told = {f'figure="{figure}"': value for (of, figure), value in self._drift.items() if of == name}
            lines += _family(name, "gauge", explanation, told)
        return "".join(f"{line}\n" for line in lines)

    def remove(self) -> None:
        """Take the file away, and what a killed writer left beside it: old numbers are not served as new."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                _temporary(self._path).unlink(missing_ok=True)


def _figures(sample: GpuSample, before: Mapping[str, Number]) -> dict[str, Number]:
    """What is known of a GPU now. Of one that is lost: that it is, and what was counted."""
    figures = {
        name: value for name, (_, value_of) in GAUGES.items() if (value := value_of(sample)) is not None
    }
    if STANDING in before and not sample.lost:
        figures.setdefault(STANDING, before[STANDING])
    for name, (_, value_of) in COUNTERS.items():
        value = value_of(sample)
        if value is not None or name in before:
            figures[name] = before.get(name, 0) + (value or 0)
    return figures


def _family(name: str, kind: str, explanation: str, of_label: Mapping[str, Number]) -> list[str]:
    if not of_label:
        return []
    head = [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{{{label}}} {value}" for label, value in of_label.items()]


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _ratio(percent: Number | None) -> float | None:
    return None if percent is None else percent / 100


def _bytes(mebibytes: float | None) -> float | None:
    return None if mebibytes is None else mebibytes * BYTES_PER_MEBIBYTE
