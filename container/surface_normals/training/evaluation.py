"""The measurement: the field's eight numbers over all valid pixels of all pictures together, what they are
compared with, and where and how surely the model is wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surface_normals.drift_figures import describe
from surface_normals.predictor import NormalMap, SurfaceNormalPredictor
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.activations import ActivationWatch
from surface_normals.training.calibration import Calibration
from surface_normals.training.dataset import PictureDataset, Sample
from surface_normals.training.edges import EdgeErrors
from surface_normals.training.panels import Panels
from surface_normals.training.reading import read_ahead

THRESHOLDS_DEGREES = (5.0, 7.5, 11.25, 22.5, 30.0)
BINS_PER_DEGREE = 1000
ALWAYS_FACING = np.array([0, 0, -1], np.float32)
PICTURES_WATCHED = 4
"""In so many pictures dead activations are looked for."""

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
        self.add_errors(angular_error_degrees(prediction[valid], truth[valid]))

    def add_errors(self, errors: NDArray[np.float64]) -> None:
        """Errors of pixels, (N,), in degrees."""
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


@dataclass(frozen=True)
class PictureErrors:
    """One picture's row in per_image.csv. Without a pixel of truth the numbers are None."""

    name: str
    valid_pixels: int
    metrics: dict[str, float] | None
    """The eight numbers, of this picture alone."""
    expected_error_degrees: float | None
    """Mean error that the model itself expects."""


class Evaluation:
    """All that is learnt from one pass over a data set, picture by picture."""

    def __init__(self, num_pictures: int) -> None:
        self.errors = AngularErrors()
        self.pictures: list[PictureErrors] = []
        self.calibration = Calibration()
        self.edges = EdgeErrors()
        self.panels = Panels(num_pictures)
        self.figures: list[dict[str, float]] = []
        """Each picture's, by which drift is watched."""
        self.dead_activations: dict[str, float] = {}
        """Share of a layer's channels that are zero everywhere, by its name; of layers that have such channels."""

    def add(self, sample: Sample, prediction: NormalMap) -> None:
        valid = sample.valid
        errors = angular_error_degrees(prediction.normals[valid], sample.normals[valid])
        expected = prediction.expected_error_degrees[valid].astype(np.float64)
        self.figures.append(describe(sample.picture, prediction.normals, prediction.expected_error_degrees))
        self.errors.add_errors(errors)
        self.calibration.add(expected, errors)
        self.edges.add(sample.normals, valid, errors, sample.depth)
        self.panels.add(
            sample.name,
            sample.picture,
            prediction.normals,
            sample.normals,
            valid,
            errors,
            prediction.expected_error_degrees,
        )
        self.pictures.append(
            PictureErrors(
                sample.name,
                errors.size,
                picture_metrics(errors) if errors.size else None,
                float(expected.mean()) if errors.size else None,
            )
        )

    def metrics(self) -> dict[str, float]:
        """The eight numbers, pooled. Raises ValueError when no pixel has truth."""
        return self.errors.metrics()


def picture_metrics(errors: NDArray[np.float64]) -> dict[str, float]:
    """The eight numbers of one picture's errors in degrees, (N,), at least one; the median is exact."""
    return {
        "mean_angular_error": float(errors.mean()),
        "median_angular_error": float(np.median(errors)),
        "rmse_angular_error": float(np.sqrt(np.square(errors).mean())),
        **{
            metric_name(threshold): 100 * float((errors < threshold).mean())
            for threshold in THRESHOLDS_DEGREES
        },
    }


def evaluate(
    engine: TorchEngine,
    dataset: PictureDataset,
    should_stop: Callable[[], bool] = lambda: False,
    workers: int = 0,
) -> Evaluation | None:
    """Measure a network on a data set as it serves, every picture at its own size; None when stopped.

    `workers` processes read the pictures ahead. Raises ValueError when no pixel has truth.
    """
    evaluation = Evaluation(len(dataset))
    predictor, watch = SurfaceNormalPredictor(engine), ActivationWatch(engine.network)
    for index, sample in enumerate(read_ahead(dataset, range(len(dataset)), workers)):
        if should_stop():
            return None
        if index < PICTURES_WATCHED:
            with watch:
                (prediction,) = predictor.predict([sample.picture])
        else:
            (prediction,) = predictor.predict([sample.picture])
        evaluation.add(sample, prediction)
    evaluation.dead_activations = watch.dead_shares()
    evaluation.metrics()  # raises
    return evaluation


def constant_predictions(
    dataset: PictureDataset,
    at_most: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    workers: int = 0,
) -> dict[str, Normals]:
    """Answers that do not look at the picture, by name: what a model must beat to have learnt anything.

    (3,) facing the camera, (3,) the data set's mean normal, and, when all its pictures have one
    size, (H, W, 3) its mean normal at each place: the best that is possible without looking.
    `at_most` so many pictures are read, spread over the data set. Nothing when stopped.
    """
    sums: Normals | None = None
    total = np.zeros(3, np.float64)
    one_size = True
    for sample in read_ahead(dataset, _spread(len(dataset), at_most), workers):
        if should_stop():
            return {}
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


def evaluate_constant(constant: Normals, samples: Iterable[Sample]) -> dict[str, float]:
    """The eight numbers of a constant, (3,) or (H, W, 3), on samples of that size."""
    errors = AngularErrors()
    for sample in samples:
        errors.add(np.broadcast_to(constant, sample.normals.shape), sample.normals, sample.valid)
    return errors.metrics()


def evaluate_constants(
    constants: dict[str, Normals],
    dataset: PictureDataset,
    should_stop: Callable[[], bool],
    at_most: int | None = None,
    workers: int = 0,
) -> dict[str, dict[str, float]] | None:
    """The eight numbers of each constant, in one pass; None when stopped.

    A constant of (H, W, 3) is left out when a picture has another size. `at_most` so many pictures
    are read, spread over the data set.
    """
    errors = {name: AngularErrors() for name in constants}
    for sample in read_ahead(dataset, _spread(len(dataset), at_most), workers):
        if should_stop():
            return None
        for name, constant in constants.items():
            if constant.ndim == 3 and constant.shape != sample.normals.shape:
                errors.pop(name, None)
            elif name in errors:
                errors[name].add(
                    np.broadcast_to(constant, sample.normals.shape), sample.normals, sample.valid
                )
    return {name: of_constant.metrics() for name, of_constant in errors.items()}


def _spread(total: int, at_most: int | None) -> list[int]:
    """`at_most` so many indices below `total`, evenly spread; all when None."""
    count = min(total, at_most or total)
    return [place * total // count for place in range(count)]
