"""Every metric that the agent can publish: its CloudWatch unit and what it says. A figure nobody knows is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Metric(NamedTuple):
    unit: str
    """CloudWatch's word for it; "None" where it has no such unit."""
    help: str


METRICS: Mapping[str, Metric] = {
    # Of each GPU, a value for each sample.
    "GpuUtilization": Metric("Percent", "share of time in which a kernel ran; in MIG mode not told"),
    "GpuMemoryUsedPercent": Metric("Percent", "memory in use"),
    "GpuPowerWatts": Metric("None", "power drawn"),
    "GpuTemperatureCelsius": Metric("None", "temperature, each 10 s"),
    "GpuThrottledPercent": Metric("Percent", "share of time slowed down by heat or a power brake"),
    "GpuPowerCappedPercent": Metric("Percent", "share of time at the power limit: usual under full load"),
    "GpuErrors": Metric("Count", "new uncorrectable memory errors and replaced rows or pages, each 60 s"),
    "GpuXidErrors": Metric(
        "Count", "errors that the driver itself reported (XIDs); their numbers are in the log"
    ),
    "GpuSmActivePercent": Metric(
        "Percent", "multiprocessors at work (this and the next four: Hopper and later)"
    ),
    "GpuTensorActivePercent": Metric("Percent", "tensor cores at work"),
    "GpuMemoryBandwidthPercent": Metric("Percent", "use of the memory's bandwidth"),
    "GpuNvlinkReceivedMebibytesPerSecond": Metric("None", "from other GPUs over NVLink"),
    "GpuNvlinkSentMebibytesPerSecond": Metric("None", "to them"),
    "GpuLost": Metric("Count", "1, once, when the driver has lost the GPU"),
    # Of the host, a value a minute, out of GPUs and work together.
    "GpuIdlePercent": Metric(
        "Percent", "share of the GPUs' time with utilisation below 5 %, also while requests are held"
    ),
    "GpuUtilizationSpread": Metric("Percent", "the busiest GPU's mean utilisation minus the idlest one's"),
    "GpuEnergyJoules": Metric("None", "energy of all GPUs in the minute"),
    "WastedUsd": Metric("None", "price of that idle time, where `INSTANCE_USD_PER_HOUR` tells it"),
    "HostUsd": Metric("None", "price of the host in the minute, likewise"),
    "CostPer1000": Metric("None", "US dollars for 1,000 images trained on or requests answered, likewise"),
    # Of the training.
    "SamplesPerSecond": Metric(
        "Count/Second", "`images_per_second` as the model reports it, of the whole job"
    ),
    "SamplesPerJoule": Metric("None", "this host's share of them for each joule of its GPUs"),
    "DataWaitPercent": Metric("Percent", "`data_wait_percent` as reported: share of time without data"),
    "StepMilliseconds": Metric(
        "Milliseconds", "`step_milliseconds` as reported: an optimizer step, with its wait for data"
    ),
    "LossScale": Metric(
        "None", "`loss_scale` as reported, in float16 alone: one that keeps falling is overflow"
    ),
    # Of the server: sums of a minute, or the requests' own times.
    "Requests": Metric("Count", "requests to /invocations in the minute; 0 while the server only waits"),
    "RequestErrors": Metric("Count", "of these, answered with a status of 500 or above"),
    "RequestMilliseconds": Metric("Milliseconds", "from a request's arrival to its answer"),
    "DecodeMilliseconds": Metric("Milliseconds", "decoding of a request"),
    "QueueMilliseconds": Metric("Milliseconds", "wait of a decoded request for the model"),
    "PredictMilliseconds": Metric("Milliseconds", "a batch's time in the model"),
    "EncodeMilliseconds": Metric("Milliseconds", "encoding of an answer"),
    "BatchSize": Metric(
        "Count", "requests that went through the model together, mean of a second and worker"
    ),
    "InFlightRequests": Metric("Count", "requests held by a worker, once a second"),
    "GpuSecondsPerRequest": Metric(
        "Seconds",
        "how long a request holds a GPU: the clock's time in `predict`, with what it waits for there",
    ),
    "DriftPsi": Metric(
        "None",
        "how unlike the pictures of the validation the requests are, a value for each figure: above 0.25",
    ),
    "DriftKs": Metric("None", "the same as Kolmogorov and Smirnov's distance, 0 to 1"),
    # Of the agent.
    "DroppedWorkFigures": Metric("Count", "messages to the agent that found its queue full"),
}


class Part(NamedTuple):
    """Of what a figure is, where it is not of the whole host: a dimension and its value."""

    dimension: str
    """`Gpu`, or `Figure` for one of those that requests are described by."""
    value: str

    @classmethod
    def of_gpu(cls, number: int) -> "Part":
        """The GPU with this number."""
        return cls("Gpu", str(number))


@dataclass(frozen=True)
class Series:
    """The values of one metric in one period; `part` is None for a figure of the host."""

    name: str
    values: tuple[float, ...]
    part: Part | None = None

    @property
    def unit(self) -> str:
        return METRICS[self.name].unit
