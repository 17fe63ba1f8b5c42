"""Inside the agent: the samples and work figures of one minute, and the series that they make together."""

from collections.abc import Callable, Mapping, Sequence

from metrics.catalogue import Part, Series
from metrics.sample import GpuSample

IDLE_BELOW_PERCENT = 5
SECONDS_PER_HOUR = 3600
VALUES_PER_FIGURE = 60
"""Of the work in a period, whatever the number of workers: percentiles need no more, and a line has room."""

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
    "GpuXidErrors": lambda sample: sample.xids,
    "GpuSmActivePercent": lambda sample: sample.sm_active_percent,
    "GpuTensorActivePercent": lambda sample: sample.tensor_active_percent,
    "GpuMemoryBandwidthPercent": lambda sample: sample.memory_bandwidth_percent,
    "GpuNvlinkReceivedMebibytesPerSecond": lambda sample: sample.nvlink_received_mebibytes_per_second,
    "GpuNvlinkSentMebibytesPerSecond": lambda sample: sample.nvlink_sent_mebibytes_per_second,
    "GpuLost": lambda sample: 1 if sample.lost else None,
}
WORK_FIGURES = {
    "images_per_second": "SamplesPerSecond",
    "data_wait_percent": "DataWaitPercent",
    "step_milliseconds": "StepMilliseconds",
    "loss_scale": "LossScale",
    "request_milliseconds": "RequestMilliseconds",
    "decode_milliseconds": "DecodeMilliseconds",
    "queue_milliseconds": "QueueMilliseconds",
    "predict_milliseconds": "PredictMilliseconds",
    "encode_milliseconds": "EncodeMilliseconds",
    "batch_size": "BatchSize",
    "in_flight": "InFlightRequests",
}
DRIFT_FIGURES = {"drift_psi": "DriftPsi", "drift_ks": "DriftKs"}
"""Told as `drift_psi:sharpness`, for example."""
SUMMED_WORK = {"requests": "Requests", "errors": "RequestErrors", "dropped": "DroppedWorkFigures"}


def series_of(
    samples: Sequence[GpuSample],
    work: Sequence[Mapping[str, float]],
    *,
    seconds: float,
    num_hosts: int,
    usd_per_hour: float | None = None,
) -> list[Series]:
    """Everything that is known of a period of so many seconds; `num_hosts` share the reported work.

    `usd_per_hour`: what this host costs, if that is known.
    """
    by_gpu = {
        gpu: [sample for sample in samples if sample.gpu == gpu]
        for gpu in sorted({sample.gpu for sample in samples})
    }
    series = [
        Series(name, tuple(known), Part.of_gpu(gpu))
        for gpu, of_gpu in by_gpu.items()
        for name, figure in GPU_FIGURES.items()
        if (known := [value for value in map(figure, of_gpu) if value is not None])
    ]
    reported = {
        name: [message[figure] for message in work if figure in message]
        for figure, name in WORK_FIGURES.items()
    }
    series += [
        Series(name, tuple(map(_short, _thinned(values)))) for name, values in reported.items() if values
    ]
    series += _of_drift(work)
    derived = {
        name: sum(message[figure] for message in work if figure in message)
        for figure, name in SUMMED_WORK.items()
        if any(figure in message for message in work)
    }
    derived |= _of_gpus_together(by_gpu)
    rates = reported["SamplesPerSecond"]
    host_rate = sum(rates) / len(rates) / num_hosts if rates else None
    energies = [sample.energy_joules for sample in samples if sample.energy_joules is not None]
    if energies:
        derived["GpuEnergyJoules"] = sum(energies)
    if host_rate is not None and sum(energies) > 0:
        derived["SamplesPerJoule"] = host_rate * seconds / sum(energies)
    if samples and derived.get("Requests"):
        derived["GpuSecondsPerRequest"] = (
            sum(message.get("predict_seconds", 0) for message in work) / derived["Requests"]
        )
    if usd_per_hour is not None:
        usd = derived["HostUsd"] = usd_per_hour * seconds / SECONDS_PER_HOUR
        done = derived.get("Requests") if host_rate is None else host_rate * seconds
        if done:
            derived["CostPer1000"] = 1000 * usd / done
        if "GpuIdlePercent" in derived:
            derived["WastedUsd"] = usd * derived["GpuIdlePercent"] / 100
    return series + [Series(name, (_short(value),)) for name, value in derived.items()]


def _of_drift(work: Sequence[Mapping[str, float]]) -> list[Series]:
    """A series for each distance of each figure that was told."""
    told: dict[tuple[str, str], list[float]] = {}
    for message in work:
        for name, value in message.items():
            distance, _, figure = name.partition(":")
            if figure and distance in DRIFT_FIGURES:
                told.setdefault((DRIFT_FIGURES[distance], figure), []).append(value)
    return [
        Series(name, tuple(map(_short, _thinned(values))), Part("Figure", figure))
        for (name, figure), values in told.items()
    ]


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


def _thinned(values: Sequence[float]) -> Sequence[float]:
    """As they are, or so many of them in order of size, evenly spaced, the smallest and the largest among them."""
    if len(values) <= VALUES_PER_FIGURE:
        return values
    ordered, step = sorted(values), (len(values) - 1) / (VALUES_PER_FIGURE - 1)
    return [ordered[round(number * step)] for number in range(VALUES_PER_FIGURE)]


def _memory_used_percent(sample: GpuSample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return round(100 * sample.memory_used_bytes / sample.memory_total_bytes, 2)


def _short(value: float) -> float:
    """Rounded at the source: digits that are noise would triple a line's bytes."""
    return float(f"{value:.5g}")
