"""Inside the agent: the samples and work figures of one minute, and the series that they make together."""

from collections.abc import Callable, Mapping, Sequence

from metrics.catalogue import Series
from metrics.sample import GpuSample

IDLE_BELOW_PERCENT = 5

GPU_FIGURES: Mapping[str, Callable[[GpuSample], float | None]] = {
    "GpuUtilization": lambda sample: sample.utilization_percent,
    "GpuMemoryUsedPercent": lambda sample: _memory_used_percent(sample),
    "GpuPowerWatts": lambda sample: None if sample.power_watts is None else round(sample.power_watts, 1),
    "GpuTemperatureCelsius": lambda sample: sample.temperature_celsius,
    "GpuThrottledPercent": lambda sample: None if sample.throttled is None else 100 * sample.throttled,
    "GpuPowerCappedPercent": lambda sample: (
        None if sample.power_capped is None else 100 * sample.power_capped
    ),
    "GpuErrors": lambda sample: sample.errors,
    "GpuLost": lambda sample: 1 if sample.lost else None,
}
WORK_FIGURES = {"images_per_second": "SamplesPerSecond", "data_wait_percent": "DataWaitPercent"}


def series_of(
    samples: Sequence[GpuSample], work: Sequence[Mapping[str, float]], *, seconds: float, num_hosts: int
) -> list[Series]:
    """Everything that is known of a period of so many seconds; `num_hosts` share the reported work."""
    by_gpu = {
        gpu: [sample for sample in samples if sample.gpu == gpu]
        for gpu in sorted({sample.gpu for sample in samples})
    }
    series = [
        Series(name, tuple(known), gpu)
        for gpu, of_gpu in by_gpu.items()
        for name, figure in GPU_FIGURES.items()
        if (known := [value for value in map(figure, of_gpu) if value is not None])
    ]
    reported = {
        name: [message[figure] for message in work if figure in message]
        for figure, name in WORK_FIGURES.items()
    }
    series += [Series(name, tuple(map(_short, values))) for name, values in reported.items() if values]
    derived = _of_gpus_together(by_gpu) | _of_gpus_and_work(samples, reported, seconds, num_hosts)
    if dropped := sum(message.get("dropped", 0) for message in work):
        derived["DroppedWorkFigures"] = dropped
    return series + [Series(name, (_short(value),)) for name, value in derived.items()]


def _of_gpus_together(by_gpu: Mapping[int, Sequence[GpuSample]]) -> dict[str, float]:
    used = {
        gpu: [sample.utilization_percent for sample in of_gpu if sample.utilization_percent is not None]
        for gpu, of_gpu in by_gpu.items()
    }
    means = [sum(values) / len(values) for values in used.values() if values]
    figures: dict[str, float] = {}
    if means:
        all_values = [value for values in used.values() for value in values]
        idle = sum(1 for value in all_values if value < IDLE_BELOW_PERCENT)
        figures["GpuIdlePercent"] = 100 * idle / len(all_values)
    if len(means) > 1:
        figures["GpuUtilizationSpread"] = max(means) - min(means)
    return figures


def _of_gpus_and_work(
    samples: Sequence[GpuSample], reported: Mapping[str, Sequence[float]], seconds: float, num_hosts: int
) -> dict[str, float]:
    energies = [sample.energy_joules for sample in samples if sample.energy_joules is not None]
    if not energies:
        return {}
    figures = {"GpuEnergyJoules": sum(energies)}
    rates = reported["SamplesPerSecond"]
    if rates and sum(energies) > 0:
        of_host = sum(rates) / len(rates) / num_hosts
        figures["SamplesPerJoule"] = of_host * seconds / sum(energies)
    return figures


def _memory_used_percent(sample: GpuSample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return round(100 * sample.memory_used_bytes / sample.memory_total_bytes, 2)


def _short(value: float) -> float:
    """Rounded at the source: digits that are noise would triple a line's bytes."""
    return float(f"{value:.5g}")
