"""Inside the agent: the samples and work figures of one minute, and the series that they make together."""

from collections.abc import Callable, Mapping, Sequence

from metrics.catalogue import Part, Series
from metrics.sample import GpuSample
from metrics.work import Message, values

IDLE_BELOW_PERCENT = 5
SECONDS_PER_HOUR = 3600
VALUES_PER_FIGURE = 100
"""Of the work in a period, whatever the number of workers: the largest of them is the maximum, the next one the 99th
percentile; of fewer the maximum would pass for both."""

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
IMAGES, SECONDS, RATE, WAIT = "trained_images", "trained_seconds", "images_per_second", "data_wait_percent"
"""Of the training: what was done since the report before, in how long; or at least how fast; its share of waiting."""
TRAINING_FIGURES = {
    RATE: "SamplesPerSecond",
    WAIT: "DataWaitPercent",
    "step_milliseconds": "StepMilliseconds",
    "loss_scale": "LossScale",
}
TOLD_BY_TRAINING = frozenset({IMAGES, SECONDS, *TRAINING_FIGURES})
WORK_FIGURES = TRAINING_FIGURES | {
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
    work: Sequence[Message],
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
        name: [value for message in work for value in values(message, figure)]
        for figure, name in WORK_FIGURES.items()
    }
    series += [Series(name, tuple(map(_short, _thinned(told)))) for name, told in reported.items() if told]
    series += _of_drift(work)
    derived = {
        name: _sum(work, figure)
        for figure, name in SUMMED_WORK.items()
        if any(figure in message for message in work)
    }
    derived |= _of_gpus_together(by_gpu)
    images = _images(work, seconds, num_hosts)
    energies = [sample.energy_joules for sample in samples if sample.energy_joules is not None]
    if energies:
        derived["GpuEnergyJoules"] = sum(energies)
    if images is not None and sum(energies) > 0:
        derived["SamplesPerJoule"] = images / sum(energies)
    if samples and derived.get("Requests"):
        derived["GpuSecondsPerRequest"] = _sum(work, "predict_seconds") / derived["Requests"]
    if usd_per_hour is not None:
        usd = derived["HostUsd"] = usd_per_hour * seconds / SECONDS_PER_HOUR
        if done := derived.get("Requests") if images is None else images:
            derived["CostPer1000"] = 1000 * usd / done
        if "GpuIdlePercent" in derived:
            derived["WastedUsd"] = usd * derived["GpuIdlePercent"] / 100
    return series + [Series(name, (_short(value),)) for name, value in derived.items()]


def _sum(work: Sequence[Message], figure: str) -> float:
    return sum(sum(values(message, figure)) for message in work)


def _images(work: Sequence[Message], seconds: float, num_hosts: int) -> float | None:
    """Those that this host trained on, None without training.

    As told; of a model that tells its speed alone, as many as that makes in the whole period, though it may
    have done other things in it.
    """
    if any(IMAGES in message for message in work):
        return _sum(work, IMAGES) / num_hosts
    rates = [rate for message in work for rate in values(message, RATE)]
    return sum(rates) / len(rates) * seconds / num_hosts if rates else None


def _of_drift(work: Sequence[Message]) -> list[Series]:
    """A series for each distance of each figure that was told."""
    told: dict[tuple[str, str], list[float]] = {}
    for message in work:
        for name in message:
            distance, _, figure = name.partition(":")
            if figure and distance in DRIFT_FIGURES:
                told.setdefault((DRIFT_FIGURES[distance], figure), []).extend(values(message, name))
    return [
        Series(name, tuple(map(_short, _thinned(of_one))), Part("Figure", figure))
        for (name, figure), of_one in told.items()
    ]


def _of_gpus_together(by_gpu: Mapping[int, Sequence[GpuSample]]) -> dict[str, float]:
    used = {
        gpu: [sample.utilization_percent for sample in of_gpu if sample.utilization_percent is not None]
        for gpu, of_gpu in by_gpu.items()
    }
    means = [sum(of_one) / len(of_one) for of_one in used.values() if of_one]
    figures: dict[str, float] = {}
    if means:
        of_all = [percent for of_one in used.values() for percent in of_one]
        idle = sum(1 for percent in of_all if percent < IDLE_BELOW_PERCENT)
        figures["GpuIdlePercent"] = 100 * idle / len(of_all)
    if len(means) > 1:
        figures["GpuUtilizationSpread"] = max(means) - min(means)
    return figures


def _thinned(told: Sequence[float]) -> Sequence[float]:
    """As they are, or so many of them in order of size, evenly spaced, the smallest and the largest among them."""
    if len(told) <= VALUES_PER_FIGURE:
        return told
    ordered, step = sorted(told), (len(told) - 1) / (VALUES_PER_FIGURE - 1)
    return [ordered[round(number * step)] for number in range(VALUES_PER_FIGURE)]


def _memory_used_percent(sample: GpuSample) -> float | None:
    if sample.memory_used_bytes is None or not sample.memory_total_bytes:
        return None
    return round(100 * sample.memory_used_bytes / sample.memory_total_bytes, 2)


def _short(value: float) -> float:
    """Rounded at the source: digits that are noise would triple a line's bytes."""
    return float(f"{value:.5g}")
