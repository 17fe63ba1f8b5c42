"""At the end of training: how pictures and predictions of the validation are distributed, for the server to compare.

Part of the model's description: the figures are those of drift_figures.py. Without a validation the pictures that
were trained on stand in for it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from surface_normals.drift_figures import describe
from surface_normals.predictor import SurfaceNormalPredictor
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.dataset import PictureDataset

TRAINING_PICTURES = 256
"""At most so many of them are looked at: the server takes 200, and nothing else needs their predictions."""
SURER_OF_TRAINING = "expected_error_degrees"
"""A network is surer of what it was trained on than of anything it is asked: no reference for that."""
BINS = 8
"""Of alike content. Chance alone gives an index of about 7 (1/n + 1/m) for n and m pictures: more bins, more of it."""


def reference_of(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """For each figure of so many pictures, the `edges` between bins and the `counts` in them; empty for no picture.

    Edges are quantiles. A value that many pictures share, as a size, has a bin for itself.
    """
    if not figures:
        return {}
    return {name: _histogram(np.array([picture[name] for picture in figures])) for name in figures[0]}


def training_figures(
    engine: TorchEngine, dataset: PictureDataset, should_stop: Callable[[], bool]
) -> list[dict[str, float]]:
    """The figures of training pictures, spread over the data set; none when the job was stopped meanwhile."""
    predictor, count, found = SurfaceNormalPredictor(engine), min(len(dataset), TRAINING_PICTURES), []
    for place in range(count):
        if should_stop():
            return []
        picture = dataset[place * len(dataset) // count].picture
        (prediction,) = predictor.predict([picture])
        figures = describe(picture, prediction.normals, prediction.expected_error_degrees)
        found.append({name: value for name, value in figures.items() if name != SURER_OF_TRAINING})
    return found


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    quantiles, times = np.unique(
        np.quantile(values, np.arange(1, BINS) / BINS, method="nearest"), return_counts=True
    )
    edges = np.union1d(quantiles, np.nextafter(quantiles[times > 1], np.inf))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
