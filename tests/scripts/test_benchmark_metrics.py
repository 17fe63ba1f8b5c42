"""What benchmark_metrics.py makes of its measurements."""

import re

import numpy as np
import pytest

from benchmark_metrics import interval, median_ratio, ratio_of_means


def halves(effect, noise, bursts=0.0):
    """Pairs of halves of 100 ms: `on` takes `effect` longer in all, of which the agent's bursts are in one of ten."""
    random = np.random.default_rng(1)
    seconds = 0.1 * random.normal(1, noise, (500, 2))
    seconds[:, 1] *= 1 + effect
    seconds[::10, 1] += 10 * 0.1 * bursts
    return seconds


def told(text):
    return [float(number) for number in re.findall(r"\d\.\d+", text)]


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_the_interval_holds_the_effect_and_is_as_wide_as_chance(effect):
    for figure in (ratio_of_means, median_ratio):
        middle, low, high = told(interval(halves(effect, 0.02), figure))
        assert low <= 1 + effect <= high
        assert low < middle < high < low + 0.01


def test_work_that_comes_once_a_second_is_seen():
    """A median does not know of it: the processor's time is told as a mean."""
    pairs = halves(0.0, 0.001, bursts=0.02)
    assert told(interval(pairs, ratio_of_means))[0] == pytest.approx(1.02, abs=0.001)
    assert told(interval(pairs, median_ratio))[0] == pytest.approx(1, abs=0.001)
