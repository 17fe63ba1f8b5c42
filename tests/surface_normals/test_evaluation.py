import math

import numpy as np
import pytest

from surface_normals.training.dataset import Sample
from surface_normals.training.evaluation import (
    AngularErrors,
    angular_error_degrees,
    constant_predictions,
    evaluate_constant,
    evaluate_constants,
    metric_name,
    picture_metrics,
)
from surface_normals.training.reading import read_ahead


def sample(normals, valid):
    """What the numbers need of a sample."""
    return Sample("", np.zeros((*valid.shape, 3), np.uint8), normals, valid)


FACING = np.array([0, 0, -1], np.float32)


def hemisphere(side=801):
    """Normals of a sphere seen from far away, and where it is: the angle to the viewer is asin(radius)."""
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    inside = x**2 + y**2 < 1
    z = -np.sqrt(np.where(inside, 1 - x**2 - y**2, 0))
    return np.stack([x, y, z], axis=2).astype(np.float32) * inside[:, :, None], inside


def test_a_sphere_against_a_constant_scores_what_geometry_says():
    normals, inside = hemisphere()
    metrics = evaluate_constant(FACING, [sample(normals, inside)])
    # Area within t degrees of the viewer is sin(t)^2 of the disc; mean and median are 45 degrees.
    assert metrics["mean_angular_error"] == pytest.approx(45, abs=0.1)
    assert metrics["median_angular_error"] == pytest.approx(45, abs=0.1)
    for threshold in (5, 7.5, 11.25, 22.5, 30):
        expected = 100 * math.sin(math.radians(threshold)) ** 2
        assert metrics[metric_name(threshold)] == pytest.approx(expected, abs=0.1)


def test_pictures_are_pooled_not_averaged():
    wall, floor = np.array([0, 0, -1], np.float32), np.array([0, -1, 0], np.float32)
    errors = AngularErrors()
    errors.add(np.tile(FACING, (1, 9, 1)), np.tile(wall, (1, 9, 1)), np.ones((1, 9), bool))
    errors.add(np.tile(FACING, (1, 1, 1)), np.tile(floor, (1, 1, 1)), np.ones((1, 1), bool))
    metrics = errors.metrics()
    assert metrics["mean_angular_error"] == pytest.approx(9)
    assert metrics["rmse_angular_error"] == pytest.approx(math.sqrt(90**2 / 10))
    assert metrics["percent_below_5"] == pytest.approx(90)
    assert metrics["median_angular_error"] == pytest.approx(0, abs=1e-3)


def test_thresholds_are_strict():
    exactly_30 = np.array([[[math.sin(math.radians(30.0001)), 0, -math.cos(math.radians(30.0001))]]])
    assert evaluate_constant(FACING, [sample(exactly_30, np.ones((1, 1), bool))])["percent_below_30"] == 0


def test_only_valid_pixels_count():
    normals, inside = hemisphere(101)
    noisy = np.where(inside[:, :, None], normals, 7.0).astype(np.float32)
    assert evaluate_constant(FACING, [sample(noisy, inside)]) == evaluate_constant(
        FACING, [sample(normals, inside)]
    )
    with pytest.raises(ValueError, match="no pixel has truth"):
        evaluate_constant(FACING, [sample(normals, np.zeros_like(inside))])


def test_tiny_angles_are_not_lost_to_rounding():
    a = np.array([[0, 0, -1.0]])
    b = np.array([[math.sin(1e-6), 0, -math.cos(1e-6)]])
    assert angular_error_degrees(a, b)[0] == pytest.approx(math.degrees(1e-6), rel=1e-6)


def test_one_pictures_numbers_are_those_of_the_pool_of_one():
    normals, inside = hemisphere(201)
    errors = angular_error_degrees(np.broadcast_to(FACING, normals.shape)[inside], normals[inside])
    pooled = evaluate_constant(FACING, [sample(normals, inside)])
    assert picture_metrics(errors) == pytest.approx(pooled, abs=1e-3)


class Walls:
    """Ten pictures of one pixel row, wall or floor; it counts how many were read."""

    def __init__(self, widths=(2,) * 10):
        self.widths, self.read = widths, []

    def __len__(self):
        return len(self.widths)

    def __getitem__(self, index):
        self.read.append(index)
        normal = np.array([0, 0, -1] if index % 2 else [0, -1, 0], np.float32)
        return sample(np.tile(normal, (1, self.widths[index], 1)), np.ones((1, self.widths[index]), bool))


def test_constants_come_from_a_bounded_sample_spread_over_the_data():
    data = Walls()
    constants = constant_predictions(data, at_most=4)
    assert data.read == [0, 2, 5, 7]
    assert set(constants) == {"always facing the camera", "mean normal", "mean normal of each place"}


def test_a_constant_of_each_place_needs_pictures_of_its_size():
    constants = constant_predictions(Walls())
    same = evaluate_constants(constants, Walls(), lambda: False)
    assert same["mean normal of each place"]["mean_angular_error"] == pytest.approx(45)
    assert same["always facing the camera"]["mean_angular_error"] == pytest.approx(45)
    other = evaluate_constants(constants, Walls((2, 3)), lambda: False)
    assert set(other) == {"always facing the camera", "mean normal"}
    assert evaluate_constants(constants, Walls(), lambda: True) is None


def test_a_stop_ends_the_reading_for_constants():
    data = Walls()
    assert constant_predictions(data, should_stop=lambda: len(data.read) == 2) == {}
    assert data.read == [0, 1]


def test_constants_are_measured_on_a_bounded_sample():
    data = Walls()
    evaluate_constants(constant_predictions(Walls()), data, lambda: False, at_most=4)
    assert data.read == [0, 2, 5, 7]


class Damaged(Walls):
    def __getitem__(self, index):
        if index == 7:
            raise ValueError("channel 'validation': 7.png is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_the_same_in_the_same_order_and_a_damaged_one_is_one_line(workers):
    data = Walls(widths=range(1, 11))
    read = list(read_ahead(data, [8, 2, 5, 0], workers))
    assert [sample.normals.shape[1] for sample in read] == [9, 3, 6, 1]
    assert len(data.read) == (0 if workers else 4)  # each worker has its own
    assert all(np.array_equal(sample.normals, data[sample.normals.shape[1] - 1].normals) for sample in read)
    with pytest.raises(ValueError, match=r"^channel 'validation': 7\.png is damaged$"):
        list(read_ahead(Damaged(), range(10), workers))
