"""One reading of one GPU: what the agent's sampling thread hands to EMF and to the snapshot."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSample:
    """What GPU number `gpu` (NVML's index inside this container) said at one moment.

    None is what it did not say; it is never written as 0.
    """

    gpu: int
    utilization_percent: int | None = None
    """0 to 100: share of the driver's last sampling period in which at least one kernel ran."""
    memory_used_bytes: int | None = None
    """Allocated by processes; what the driver reserves for itself is not counted."""
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    temperature_celsius: int | None = None
    lost: bool = False
    """The GPU fell off the bus: this is its last sample, and it holds no readings."""
