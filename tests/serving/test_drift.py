"""Drift: the distances against arithmetic by hand, and what a server says of requests unlike its reference."""

import math
import time
from types import SimpleNamespace

import pytest

from serving import drift
from serving.drift import DriftWatch, kolmogorov_smirnov, open_watch, population_stability_index
from watch_alarms import OF_SERVING

REFERENCE = {"size": {"edges": [10.0, 20.0], "counts": [100, 100, 200]}}


def test_equal_shares_are_at_no_distance():
    assert population_stability_index([50, 50, 100], [50, 50, 100]) == 0
    assert kolmogorov_smirnov([5, 5, 10], [50, 50, 100]) == 0


def test_the_distances_are_their_formulas():
    seen, reference = [9, 29], [19, 19]  # with half a count more: 9.5/39, 29.5/39 and 0.5, 0.5
    p, q = (9.5 / 39, 29.5 / 39), (0.5, 0.5)
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert population_stability_index(seen, reference) == pytest.approx(expected)
    assert population_stability_index(seen, reference) == pytest.approx(
        population_stability_index(reference, seen)
    )
    assert kolmogorov_smirnov(seen, reference) == pytest.approx(0.5 - 9 / 38)
    assert kolmogorov_smirnov([10, 0, 0], [0, 0, 7]) == 1
    assert 0 < population_stability_index([400, 0], [0, 400]) < math.inf


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.11
        return self.now


def test_values_fall_into_their_bins_and_too_few_tell_nothing():
    clock = Clock()
    watch = DriftWatch(REFERENCE, lambda value, output: {"size": value + output}, clock)
    for number in range(200):
        assert watch.distances() == {}
        watch.look((9.0, 10.0, 20.0, 1e9)[number % 4], 0.0)
    assert watch.distances() == {"size": (0.0, 0.0)}  # an edge belongs to the bin above it
    assert not watch.is_over
    clock.now += drift.WINDOW_SECONDS
    assert watch.is_over
    watch.restart()
    assert (watch.count, watch.has_enough, watch.is_over) == (0, False, False)


def test_a_window_is_told_until_the_next_one_has_enough():
    values = iter([30.0] * 200 + [5.0] * 200)
    watch = DriftWatch(REFERENCE, lambda value, output: {"size": next(values)}, Clock())
    for _ in range(200):
        watch.look(None, None)
    unlike = watch.distances()
    assert unlike["size"].psi > 0.25
    watch.restart()
    for _ in range(199):
        watch.look(None, None)
        assert watch.distances() == unlike
    watch.restart()  # too few to be told
    assert watch.distances() == unlike


@pytest.mark.parametrize("requests_an_hour", [30, 150, 5000])
def test_the_alarm_rings_however_few_requests_there_are(requests_an_hour):
    """Each minute of 12 hours, as the agent hears it."""
    [rule] = [rule for rule in OF_SERVING if rule.metric == "DriftPsi"]
    now = 0.0
    watch = DriftWatch(REFERENCE, lambda value, output: {"size": 30.0}, lambda: now)
    above, asked = [], 0
    for minute in range(12 * 60):
        while asked < requests_an_hour * minute / 60:
            asked, now = asked + 1, now + 60 * 60 / requests_an_hour
            watch.look(None, None)
        told = watch.distances()
        above.append(bool(told) and told["size"].psi > rule.threshold)
        if watch.is_over:
            watch.restart()
    has_rung = any(
        sum(above[end - rule.minutes : end]) >= rule.bad for end in range(rule.minutes, len(above))
    )
    assert has_rung
    if asked > 2 * drift.MIN_COUNT:
        assert all(above[-rule.minutes :])


def test_what_it_costs_is_bounded():
    clock = Clock()
    watch = DriftWatch(REFERENCE, lambda value, output: {"size": value}, lambda: clock.now)
    for _ in range(50):
        watch.look(1.0, None)
        clock.now += 0.02
    assert 15 <= watch.count <= 21


def test_figures_that_take_long_are_made_less_often():
    def slow(value, output):
        began = time.thread_time()
        while time.thread_time() - began < 0.01:
            pass
        return {"size": value}

    clock = Clock()
    watch = DriftWatch(REFERENCE, slow, lambda: clock.now)
    for seconds in (0.0, 4.8, 6.0):  # at most a five-hundredth: not before five seconds
        clock.now = seconds
        watch.look(10.0, None)
    assert watch.count == 2


def test_figures_that_fail_end_the_watch_and_not_the_request(caplog):
    watch = DriftWatch(REFERENCE, lambda value, output: {}, Clock())
    watch.look(1.0, None)
    watch.look(1.0, None)
    assert watch.count == 0
    assert caplog.text.count("drift is watched no more: KeyError: 'size'") == 1


def test_a_reference_is_needed_a_right_one_and_a_large_one(caplog):
    def model(edges, counts):
        return SimpleNamespace(reference={"size": {"edges": edges, "counts": counts}}, describe=len)

    assert open_watch(object()) is None
    assert open_watch(model([1.0], [100, 100])) is not None
    caplog.set_level("INFO")
    assert open_watch(model([1.0], [3, 4])) is None
    assert "measured on 7 inputs, 200 are needed" in caplog.text
    for name in ("", "too:much", "größe", "x" * 65):
        histogram = {"edges": [1.0], "counts": [100, 100]}
        with pytest.raises(ValueError, match="a name is at most 64 of"):
            open_watch(SimpleNamespace(reference={name: histogram}, describe=len))
    with pytest.raises(ValueError, match="rising edges"):
        open_watch(model([2.0, 1.0], [100, 100, 100]))
