"""The confidence's measures against closed forms."""

import numpy as np
import pytest

from surface_normals.training.calibration import Calibration

LARGEST = 80.0  # true errors are spread evenly from 0 to here
ERRORS = (np.arange(100_000) + 0.5) / 100_000 * LARGEST


def calibration_of(expected, errors=ERRORS):
    calibration = Calibration()
    calibration.add(np.asarray(expected), errors)
    return calibration


# Without the share f of the worst, the mean error is (1 - f) times half of the largest.
@pytest.mark.parametrize(
    ("expected", "ause"),
    [
        (ERRORS, 0.0),  # it knows: no worse than the best possible
        (ERRORS / 3, 0.0),  # too modest by a factor, but the order is right
        (np.full_like(ERRORS, 20.0), LARGEST / 4),  # it knows nothing: the mean stays at half of the largest
        (LARGEST - ERRORS, LARGEST / 2),  # surest where it is worst: (1 + f) times half of the largest
    ],
)
def test_ause_is_the_area_between_two_known_lines(expected, ause):
    assert calibration_of(expected).ause() == pytest.approx(ause, abs=0.02)


def test_ause_does_not_hang_on_how_pixels_are_dealt_to_pictures():
    expected = np.random.default_rng(0).permutation(ERRORS)
    in_parts = Calibration()
    for part in np.array_split(np.arange(ERRORS.size), 7):
        in_parts.add(expected[part], ERRORS[part])
    assert in_parts.ause() == calibration_of(expected).ause()


def test_bins_are_of_one_size_and_hold_the_means():
    bins = calibration_of(ERRORS / 2).bins()
    assert [group.pixels for group in bins] == pytest.approx([10_000] * 10, rel=0.01)
    for index, group in enumerate(bins):
        assert group.true_error_degrees == pytest.approx((index + 0.5) * LARGEST / 10, abs=0.1)
        assert group.expected_error_degrees == pytest.approx(group.true_error_degrees / 2)
    assert calibration_of(ERRORS / 2).calibration_error() == pytest.approx(LARGEST / 4, abs=0.01)
    assert calibration_of(ERRORS).calibration_error() == pytest.approx(0)


def test_equal_confidences_stay_together():
    errors = np.array([0.0, 10.0, 30.0, 80.0])
    (only,) = calibration_of([20.0] * 4, errors).bins()
    assert (only.pixels, only.expected_error_degrees, only.true_error_degrees) == (4, 20.0, 30.0)


def test_the_highest_keys_are_taken_away_first():
    by_error = calibration_of(ERRORS).by_error
    left = by_error.mean_error_without(np.array([0.0, 0.25, 0.9]))
    assert left == pytest.approx([LARGEST / 2, 0.75 * LARGEST / 2, 0.1 * LARGEST / 2], rel=1e-3)
