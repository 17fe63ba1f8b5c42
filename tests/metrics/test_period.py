"""What samples and work of a minute make together, in numbers worked out by hand."""

import pytest

from metrics.catalogue import Part
from metrics.period import series_of
from metrics.sample import GpuSample


def values(series: list, gpu: int | None = None) -> dict[str, tuple[float, ...]]:
    part = None if gpu is None else Part.of_gpu(gpu)
    return {one.name: one.values for one in series if one.part == part}


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


def test_requests_and_gpus_together() -> None:
    samples = [GpuSample(0, 0), GpuSample(0, 50), GpuSample(0, 50), GpuSample(0, 1)]
    work = [
        {"requests": 4, "errors": 1, "queue_milliseconds": 2.5, "batch_size": 2, "predict_seconds": 0.3},
        {"requests": 0, "errors": 0, "in_flight": 0},
        {"requests": 6, "errors": 0, "queue_milliseconds": 3.5, "batch_size": 3, "predict_seconds": 0.2},
    ]
    series = series_of(samples, work, seconds=60, num_hosts=1, usd_per_hour=6)
    assert values(series) == {
        "Requests": (10,),
        "RequestErrors": (1,),
        "QueueMilliseconds": (2.5, 3.5),
        "BatchSize": (2, 3),
        "InFlightRequests": (0,),
        "GpuIdlePercent": (50,),
        "GpuSecondsPerRequest": (0.05,),
        # A minute costs 10 cents: half of it idle, all of it for 10 requests.
        "HostUsd": (0.1,),
        "WastedUsd": (0.05,),
        "CostPer1000": (10,),
    }


def test_a_server_that_waits_has_no_cost_of_a_request() -> None:
    series = series_of([GpuSample(0, 0)], [{"requests": 0}], seconds=60, num_hosts=1, usd_per_hour=6)
    costs = {"HostUsd": (0.1,), "WastedUsd": (0.1,)}
    assert values(series) == {"Requests": (0,), "GpuIdlePercent": (100,), **costs}


def test_without_a_gpu_no_gpu_seconds() -> None:
    work = [{"requests": 5, "predict_seconds": 1}]
    assert values(series_of([], work, seconds=60, num_hosts=1)) == {"Requests": (5,)}


def test_1000_images_of_one_of_three_hosts_cost() -> None:
    series = series_of([], [{"images_per_second": 30}], seconds=60, num_hosts=3, usd_per_hour=36)
    assert values(series)["CostPer1000"] == (1,)


def test_many_workers_make_no_more_values_and_the_extremes_stay() -> None:
    work = [{"queue_milliseconds": value} for value in (7, 1, *range(100, 900), 950)]
    (told,) = series_of([], work, seconds=60, num_hosts=1)
    assert len(told.values) == 60
    assert (told.values[0], told.values[-1]) == (1, 950)
    assert sum(told.values) / 60 == pytest.approx(sum(w["queue_milliseconds"] for w in work) / 803, rel=0.02)


def test_the_distances_of_each_figure_are_told_apart() -> None:
    work = [
        {"drift_psi:size": 0.3, "drift_ks:size": 0.1},
        {"drift_psi:size": 0.5, "drift_psi:sharpness": 2},
        {"drift_psi:": 9, "drift_psi": 9, "requests:size": 9},
    ]
    series = series_of([], work, seconds=60, num_hosts=1)
    assert {(one.name, one.part): one.values for one in series} == {
        ("DriftPsi", ("Figure", "size")): (0.3, 0.5),
        ("DriftKs", ("Figure", "size")): (0.1,),
        ("DriftPsi", ("Figure", "sharpness")): (2,),
    }
