"""One reading of one GPU: what the agent's sampling thread hands to the publishing one and to the snapshot."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSample:
    """What GPU number `gpu` (NVML's index inside this container) said at one moment.

    None is what it did not say, or was not asked this time; it is never written as 0.
    """

    gpu: int
    utilization_percent: int | None = None
    """0 to 100: share of the driver's last sampling period in which at least one kernel ran."""
    memory_used_bytes: int | None = None
    """Allocated by processes; what the driver reserves for itself is not counted."""
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    temperature_celsius: int | None = None
    throttled: bool | None = None
    """Whether heat, a power brake or the board's protection holds the clock down."""
    power_capped: bool | None = None
    """Whether the power limit holds the clock down: usual under full load."""
    energy_joules: float | None = None
    """Drawn since the sample before that knew it."""
    errors: int | None = None
    """Uncorrectable memory errors and rows remapped because of them, new since they were last read."""
    xids: int | None = None
    """Errors that the driver reported since the sample before."""
    sm_active_percent: float | None = None
    """0 to 100, as the next two: share of the multiprocessors' time with work, mean since the sample before."""
    tensor_active_percent: float | None = None
    memory_bandwidth_percent: float | None = None
    nvlink_received_mebibytes_per_second: float | None = None
    nvlink_sent_mebibytes_per_second: float | None = None
    lost: bool = False
    """The GPU fell off the bus: this is its last sample, and it holds no readings."""
