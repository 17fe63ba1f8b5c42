"""At the end of training: how pictures and predictions of the validation are distributed, for the server to compare.

Part of the model's description: the figures are those of drift_figures.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np

BINS = 8
"""Of alike content. Chance alone gives an index of about 7 (1/n + 1/m) for n and m pictures: more bins, more of it."""


def reference_of(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """For each figure of so many pictures, the `edges` between bins and the `counts` in them; empty for no picture.

    Edges are quantiles. A value that many pictures share, as a size, has a bin for itself.
    """
    if not figures:
        return {}
    return {name: _histogram(np.array([picture[name] for picture in figures])) for name in figures[0]}


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    quantiles, times = np.unique(
        np.quantile(values, np.arange(1, BINS) / BINS, method="nearest"), return_counts=True
    )
    edges = np.union1d(quantiles, np.nextafter(quantiles[times > 1], np.inf))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
