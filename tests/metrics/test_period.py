"""What samples and work of a minute make together, in numbers worked out by hand."""

import math
from collections.abc import Sequence

import pytest

from metrics.agent import Period
from metrics.catalogue import Part, Series
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


def test_a_minute_that_trains_for_a_sixth_of_it_did_a_sixth_of_the_work() -> None:
    """Ten seconds at 100 images a second, then 50 of evaluation: 1,000 images and not 6,000."""
    work = [{"images_per_second": 100, "trained_images": 500, "trained_seconds": 5}] * 2
    samples = [GpuSample(0, 90, energy_joules=50) for _ in range(60)]
    told = values(series_of(samples, work, seconds=60, num_hosts=2, usd_per_hour=36))
    assert told["SamplesPerSecond"] == (100, 100)
    assert told["SamplesPerJoule"] == (pytest.approx(500 / 3000, rel=1e-4),)
    # 60 cents for this host's half of them.
    assert told["CostPer1000"] == (pytest.approx(1.2),)


def test_a_minute_without_an_image_has_no_cost_of_one() -> None:
    work = [{"images_per_second": 0, "trained_images": 0, "trained_seconds": 5}]
    told = values(series_of([GpuSample(0, energy_joules=50)], work, seconds=60, num_hosts=1, usd_per_hour=36))
    assert told["SamplesPerJoule"] == (0,)
    assert "CostPer1000" not in told


def test_many_workers_make_no_more_values_and_the_extremes_stay() -> None:
    work = [{"queue_milliseconds": value} for value in (7, 1, *range(100, 900), 950)]
    (told,) = series_of([], work, seconds=60, num_hosts=1)
    assert len(told.values) == 100
    assert (told.values[0], told.values[-1]) == (1, 950)
    assert sum(told.values) / 100 == pytest.approx(sum(w["queue_milliseconds"] for w in work) / 803, rel=0.02)


@pytest.mark.parametrize("percent", [50, 90, 99, 100])
def test_percentiles_are_those_of_all_requests(percent: int) -> None:
    """One request of 200 takes a hundred times as long as the rest: that is the maximum and no percentile."""
    work = [{"request_milliseconds": [*range(100, 299), 20_000]} for _ in range(60)]
    (told,) = series_of([], work, seconds=60, num_hosts=1)
    everything = sorted(value for message in work for value in message["request_milliseconds"])

    def percentile(of: list[float]) -> float:
        """By nearest rank."""
        return of[math.ceil(len(of) * percent / 100) - 1]

    assert percentile(sorted(told.values)) == pytest.approx(percentile(everything), rel=0.02)


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


class Published:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.periods: list[tuple[int, dict[str, tuple[float, ...]]]] = []

    def publish(self, series: Sequence[Series], timestamp_milliseconds: int) -> None:
        self.periods.append((timestamp_milliseconds, {one.name: one.values for one in series}))

    def close(self) -> None:
        pass


def test_a_period_is_told_once_though_something_comes_late_and_lasts_as_long_as_its_data() -> None:
    sink = Published()
    period = Period(sink, 60, num_hosts=1, usd_per_hour=3600, now=30)
    period.add_work(40, {"requests": 1})
    period.add_work(61, {"requests": 10})
    period.add_work(59.9, {"requests": 100})  # the minute before is told already
    period.add_work(130, {"requests": 1000})
    period.publish(140)
    assert [(time, told["Requests"], told["CostPer1000"]) for time, told in sink.periods] == [
        (0, (1,), (30_000,)),
        (60_000, (110,), (pytest.approx(60_000 / 110, rel=1e-4),)),
        (120_000, (1000,), (20,)),
    ]
