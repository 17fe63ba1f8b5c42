"""What samples and work of a minute make together, in numbers worked out by hand."""

import pytest

from metrics.period import series_of
from metrics.sample import GpuSample


def values(series: list, gpu: int | None = None) -> dict[str, tuple[float, ...]]:
    return {one.name: one.values for one in series if one.gpu == gpu}


def test_work_and_gpus_together() -> None:
    samples = [
        GpuSample(0, 90, energy_joules=300, throttled=True, power_capped=False),
        GpuSample(0, 70, energy_joules=200, throttled=False, power_capped=False),
        GpuSample(1, 4, energy_joules=100),
        GpuSample(1, 0),
    ]
    work = [{"images_per_second": 40, "data_wait_percent": 10}, {"images_per_second": 20}, {"other": 1}]
    series = series_of(samples, work, seconds=2, num_hosts=3)
    assert values(series) == {
        "SamplesPerSecond": (40, 20),
        "DataWaitPercent": (10,),
        "GpuIdlePercent": (50,),
        "GpuUtilizationSpread": (78,),
        "GpuEnergyJoules": (600,),
        # 30 a second on 3 hosts, 2 s of them for 600 J.
        "SamplesPerJoule": (pytest.approx(30 / 3 * 2 / 600, rel=1e-4),),
    }
    assert values(series, 0) == {
        "GpuUtilization": (90, 70),
        "GpuThrottledPercent": (100, 0),
        "GpuPowerCappedPercent": (0, 0),
    }


def test_unknown_is_absent() -> None:
    assert series_of([], [], seconds=60, num_hosts=1) == []
    assert series_of([GpuSample(0)], [{"step": 3}], seconds=60, num_hosts=1) == []
    only_zero = series_of([GpuSample(0, 0), GpuSample(0)], [], seconds=60, num_hosts=1)
    assert values(only_zero, 0) == {"GpuUtilization": (0,)}
    assert values(only_zero) == {"GpuIdlePercent": (100,)}
    assert values(series_of([GpuSample(0, memory_used_bytes=5)], [], seconds=60, num_hosts=1), 0) == {}


def test_dropped_messages_are_added_up() -> None:
    series = series_of([], [{"dropped": 2}, {"dropped": 3}], seconds=60, num_hosts=1)
    assert values(series) == {"DroppedWorkFigures": (5,)}
