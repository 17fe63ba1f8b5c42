"""The field's eight numbers, over all valid pixels of all pictures together, and what they are compared with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surface_normals.predictor import SurfaceNormalPredictor
from surface_normals.training.dataset import PictureDataset, Sample

THRESHOLDS_DEGREES = (5.0, 7.5, 11.25, 22.5, 30.0)
BINS_PER_DEGREE = 1000
ALWAYS_FACING = np.array([0, 0, -1], np.float32)

Normals = NDArray[np.float32]


def angular_error_degrees(prediction: Normals, truth: Normals) -> NDArray[np.float64]:
    """Angle between vectors along the last axis, (..., 3) to (...), in degrees; lengths do not matter."""
    a, b = prediction.astype(np.float64), truth.astype(np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    degrees: NDArray[np.float64] = np.degrees(np.arctan2(sine, (a * b).sum(axis=-1)))
    return degrees


@dataclass
class AngularErrors:
    """Collects errors picture by picture in memory that does not grow."""

    count: int = 0
    total: float = 0.0
    total_of_squares: float = 0.0
    below: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(THRESHOLDS_DEGREES), np.int64))
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(180 * BINS_PER_DEGREE + 1, np.int64)
    )

    def add(self, prediction: Normals, truth: Normals, valid: NDArray[np.bool_]) -> None:
        """One picture: (H, W, 3) twice and (H, W). Only valid pixels count."""
        errors = angular_error_degrees(prediction[valid], truth[valid])
        self.count += errors.size
        self.total += float(errors.sum())
        self.total_of_squares += float(np.square(errors).sum())
        self.below += [int((errors < threshold).sum()) for threshold in THRESHOLDS_DEGREES]
        self.histogram += np.bincount(
            (errors * BINS_PER_DEGREE).astype(np.int64), minlength=self.histogram.size
        )

    def metrics(self) -> dict[str, float]:
        """The eight numbers by name: degrees, and percent (strictly) below each threshold.

        The median is read off a histogram of 0.001 degree. Raises ValueError when nothing was added.
        """
        if self.count == 0:
            raise ValueError("no pixel has truth: all normals are zero, or masked, in every picture measured")
        middle = int(np.searchsorted(np.cumsum(self.histogram), self.count / 2))
        return {
            "mean_angular_error": self.total / self.count,
            "median_angular_error": (middle + 0.5) / BINS_PER_DEGREE,
            "rmse_angular_error": (self.total_of_squares / self.count) ** 0.5,
            **{
                metric_name(threshold): 100 * int(below) / self.count
                for threshold, below in zip(THRESHOLDS_DEGREES, self.below, strict=True)
            },
        }


def metric_name(threshold_degrees: float) -> str:
    """`percent_below_11_25` for 11.25."""
    return f"percent_below_{threshold_degrees:g}".replace(".", "_")


def evaluate(
    predictor: SurfaceNormalPredictor,
    dataset: PictureDataset,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """The predictor's eight numbers on a data set, every picture at its own size; None when stopped.

    Raises ValueError when no pixel has truth.
    """
    errors = AngularErrors()
    for index in range(len(dataset)):
        if should_stop():
            return None
        sample = dataset[index]
        (prediction,) = predictor.predict([sample.picture])
        errors.add(prediction.normals, sample.normals, sample.valid)
    return errors.metrics()


def constant_predictions(dataset: PictureDataset) -> dict[str, Normals]:
    """Answers that do not look at the picture, by name: what a model must beat to have learnt anything.

    (3,) facing the camera, (3,) the data set's mean normal, and, when all its pictures have one
    size, (H, W, 3) its mean normal at each place: the best that is possible without looking.
    """
    sums: Normals | None = None
    total = np.zeros(3, np.float64)
    one_size = True
    for index in range(len(dataset)):
        sample = dataset[index]
        masked = sample.normals * sample.valid[:, :, None]
        total += masked.sum(axis=(0, 1), dtype=np.float64)
        one_size = one_size and (sums is None or sums.shape == masked.shape)
        if one_size:
            sums = masked if sums is None else sums + masked
    constants = {
        "always facing the camera": ALWAYS_FACING,
        "mean normal": total.astype(np.float32),
    }
    if one_size and sums is not None:
        constants["mean normal of each place"] = sums
    return constants


def evaluate_constant(
    constant: Normals, samples: Iterable[Sample], should_stop: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """The eight numbers of a constant, (3,) or (H, W, 3), on samples; None when stopped."""
    errors = AngularErrors()
    for sample in samples:
        if should_stop():
            return None
        errors.add(np.broadcast_to(constant, sample.normals.shape), sample.normals, sample.valid)
    return errors.metrics()
