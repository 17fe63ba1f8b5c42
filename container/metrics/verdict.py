"""At the agent's end: what the whole job made of its GPUs, in figures and in one sentence.

Kept as counts and sums, so that a job of weeks needs no more memory than one of a minute.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metrics.period import IMAGES, RATE, SECONDS, SECONDS_PER_HOUR, WAIT
from metrics.sample import GpuSample
from metrics.work import Message, values

# Shares from which on something is the bottleneck: of the training's time, of the GPUs' time, of utilisation.
WAITS_PERCENT = 20
THROTTLED_PERCENT = 10
BUSY_PERCENT = 50
SPREAD_PERCENT = 40
MEMORY_SHARE = 0.9
"""Of a GPU's memory that a batch may fill: the rest is for fragments and for larger pictures."""


class JobTotals:
    """Everything since the agent's start; `num_hosts` share the reported work, each costs `usd_per_hour`."""

    def __init__(self, num_hosts: int, usd_per_hour: float | None) -> None:
        self._num_hosts, self._usd_per_hour = num_hosts, usd_per_hour
        self._utilization: dict[int, Counter[int]] = {}
        self._throttled: Counter[bool] = Counter()
        self._peak: tuple[float, int, int] | None = None
        self._energy_joules: float | None = None
        self._events: Counter[str] = Counter()
        self._weights: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._images: float | None = None
        self._worked: list[tuple[float, float, float]] = []

    def add(self, samples: Sequence[GpuSample]) -> None:
        """Take a moment's samples."""
        for sample in samples:
            counts = self._utilization.setdefault(sample.gpu, Counter())
            if sample.utilization_percent is not None:
                counts[sample.utilization_percent] += 1
            if sample.throttled is not None:
                self._throttled[sample.throttled] += 1
            used, total = sample.memory_used_bytes, sample.memory_total_bytes
            if used is not None and total:
                peak = (used / total, used, total)
                self._peak = peak if self._peak is None else max(self._peak, peak)
            if sample.energy_joules is not None:
                self._energy_joules = (self._energy_joules or 0.0) + sample.energy_joules
            self._events["errors"] += sample.errors or 0
            self._events["xids"] += sample.xids or 0
            self._events["lost"] += sample.lost

    def add_work(self, message: Message, seconds: float) -> None:
        """Take figures of the training, so many seconds after the start."""
        told = {name: sum(values(message, name)) for name in (IMAGES, SECONDS, RATE, WAIT) if name in message}
        if IMAGES in told:
            self._images = (self._images or 0.0) + told[IMAGES]
        if IMAGES in told or RATE in told:
            # The first report and the last: before and after them a job loads and measures, and trains on nothing.
            self._worked[1:] = [(seconds, self._energy_joules or 0.0, self._images or 0.0)]
        for name in (RATE, WAIT):
            if name in told:
                weight = told.get(SECONDS, 1.0)
                self._weights[name] = self._weights.get(name, 0.0) + weight
                self._reported[name] = self._reported.get(name, 0.0) + weight * told[name]

    def summary(self, seconds: float) -> dict[str, Any]:
        """Figures and verdict after so many seconds; what is not known is left out. Empty: nothing is known."""
        figures: dict[str, Any] = {}
        all_gpus = sum(self._utilization.values(), Counter())
        if self._utilization:
            figures["gpus"] = len(self._utilization)
        if all_gpus:
            figures["utilization_percent"] = {
                "mean": round(_mean(all_gpus), 1),
                "p10": _percentile(all_gpus, 10),
                "p50": _percentile(all_gpus, 50),
            }
            means = {str(gpu): round(_mean(counts), 1) for gpu, counts in self._utilization.items() if counts}
            figures["utilization_mean_percent_by_gpu"] = means
        if self._weights.get(WAIT):
            figures["data_wait_percent"] = round(self._mean_report(WAIT), 1)
        if self._throttled:
            figures["throttled_percent"] = round(100 * self._throttled[True] / self._throttled.total(), 1)
        if self._peak is not None:
            share, used, total = self._peak
            figures["memory_peak_bytes"], figures["memory_total_bytes"] = used, total
            figures["batch_could_be_times_larger"] = round(MEMORY_SHARE / share, 1) if share else None
        if self._energy_joules is not None:
            figures["energy_joules"] = round(self._energy_joules, 1)
        if self._weights.get(RATE):
            figures["images_per_second"] = round(self._mean_report(RATE), 3)
        if per_joule := self._images_per_joule():
            figures["images_per_joule"] = float(f"{per_joule:.4g}")
        figures |= {f"gpu_{name}": count for name, count in self._events.items() if count}
        if not figures:
            return {}
        if self._usd_per_hour is not None:
            figures["host_usd"] = round(self._usd_per_hour * seconds / SECONDS_PER_HOUR, 4)
        figures = {name: value for name, value in figures.items() if value is not None}
        return {"seconds": round(seconds, 1), **figures, "verdict": verdict(figures)}

    def _mean_report(self, name: str) -> float:
        """Of a report by its seconds, where these are told."""
        return self._reported[name] / self._weights[name]

    def _images_per_joule(self) -> float | None:
        """Of this host, from the first report to the last; its images as told, else by the speed."""
        if not self._worked:
            return None
        seconds, joules, images = (b - a for a, b in zip(self._worked[0], self._worked[-1], strict=True))
        if self._images is None:
            images = self._mean_report(RATE) * seconds if self._weights.get(RATE) else 0.0
        return images / self._num_hosts / joules if joules > 0 else None


def verdict(figures: Mapping[str, Any]) -> str:
    """The one sentence: what holds the job up, and what to change. The first cause that applies is named."""
    means = list(figures.get("utilization_mean_percent_by_gpu", {}).values())
    waits, throttled = figures.get("data_wait_percent"), figures.get("throttled_percent")
    larger = figures.get("batch_could_be_times_larger", 0)
    grown = f"the batch could be about {larger:.3g} times larger" if larger >= 2 else None
    if figures.get("gpu_lost"):
        return "A GPU fell off the bus: run the job on another instance, and tell AWS if it comes again."
    if waits is not None and waits > WAITS_PERCENT:
        return (
            f"Training waits for data {waits:.0f} % of its time: give it more loader workers, smaller pictures or "
            "shards, or an instance with more processor cores."
        )
    if throttled is not None and throttled > THROTTLED_PERCENT:
        return (
            f"Heat or a power brake holds the clock down {throttled:.0f} % of the time: nothing in the job helps, "
            "run it on another instance."
        )
    if not means and "gpus" in figures:
        return (
            "The GPUs do not tell how busy they are (in MIG mode none does): "
            f"{f'{grown}, which may be faster' if grown else 'only trying tells what would make the job faster'}."
        )
    if not means:
        return "No GPU was sampled: the processor is what limits; an instance with a GPU would be faster."
    if max(means) - min(means) > SPREAD_PERCENT:
        return (
            f"The GPUs are used unevenly, from {min(means):.0f} to {max(means):.0f} %: look for a slow one, or for "
            "work that only one of them does."
        )
    if figures["utilization_percent"]["p50"] < BUSY_PERCENT:
        busy = f"The GPUs are busy {figures['utilization_percent']['mean']:.0f} % of the time"
        if waits is None:
            return (
                f"{busy}, and whether the job waits for its data is not known: have it report {WAIT}, and if that is "
                f"low, {grown or 'try a larger batch'}."
            )
        return (
            f"{busy} though data is there: {grown or 'try a larger batch'}, steps compiled, or measured and saved "
            "less often."
        )
    if grown:
        return f"The GPUs are well used, and {grown}, which may be faster still."
    return "The GPUs limit, as they should: only a faster one, or more of them, would make the job faster."


def told(summary: Mapping[str, Any]) -> str:
    """The summary as one line for the log, the verdict last."""
    parts = []
    if used := summary.get("utilization_percent"):
        parts.append(f"GPU utilisation {used['mean']:.0f} % (p10 {used['p10']}, p50 {used['p50']})")
    for name, words in (("data_wait_percent", "waiting for data"), ("throttled_percent", "throttled")):
        if name in summary:
            parts.append(f"{words} {summary[name]:.0f} %")
    if "memory_peak_bytes" in summary:
        used_gb, total_gb = summary["memory_peak_bytes"] / 1e9, summary["memory_total_bytes"] / 1e9
        parts.append(f"memory at most {used_gb:.1f} of {total_gb:.1f} GB")
    if "energy_joules" in summary:
        parts.append(f"{summary['energy_joules'] / 1000:.3g} kJ")
    if "images_per_joule" in summary:
        parts.append(f"{summary['images_per_joule']:.3g} images per joule")
    if "host_usd" in summary:
        parts.append(f"{summary['host_usd']:.2f} USD")
    return f"{', '.join(parts)}. {summary['verdict']}" if parts else str(summary["verdict"])


def _mean(counts: Counter[int]) -> float:
    return sum(value * count for value, count in counts.items()) / counts.total()


def _percentile(counts: Counter[int], percent: float) -> int:
    """The smallest value that at least so many percent do not exceed."""
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if 100 * seen >= percent * counts.total():
            return value
    raise ValueError("no values")
