"""Part of the evaluation: is the model less sure where it is wrong, and by how many degrees?"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS_PER_DEGREE = 100
SHARES = (np.arange(1000) + 0.5) / 1000
"""Shares of pixels taken away, for the areas: midpoints, as nothing is left to average at 1."""

Numbers = NDArray[np.float64]


@dataclass
class Ranking:
    """Pixels in the order of a key (degrees, 0 to 180), as a histogram: pixels, keys and errors of each bin."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(180 * BINS_PER_DEGREE + 1, dtype=np.int64)
    )
    key_totals: Numbers = field(default_factory=lambda: np.zeros(180 * BINS_PER_DEGREE + 1))
    error_totals: Numbers = field(default_factory=lambda: np.zeros(180 * BINS_PER_DEGREE + 1))

    def add(self, keys: Numbers, errors: Numbers) -> None:
        bins = (keys * BINS_PER_DEGREE).astype(np.int64)
        size = self.counts.size
        self.counts += np.bincount(bins, minlength=size)
        self.key_totals += np.bincount(bins, weights=keys, minlength=size)
        self.error_totals += np.bincount(bins, weights=errors, minlength=size)

    def mean_error_without(self, shares: Numbers) -> Numbers:
        """The mean error of what is left when these shares of the pixels, those of the highest keys, are taken away."""
        kept = (1 - shares) * self.counts.sum()
        counts = np.concatenate([[0], np.cumsum(self.counts)])
        totals = np.concatenate([[0.0], np.cumsum(self.error_totals)])
        # Within a bin the order is unknown: its pixels count as equal.
        means: Numbers = np.interp(kept, counts, totals) / kept
        return means


@dataclass(frozen=True)
class Bin:
    """Pixels of like confidence."""

    pixels: int
    expected_error_degrees: float
    true_error_degrees: float


@dataclass
class Calibration:
    """Collects pixels in memory that does not grow. Angles in degrees."""

    by_confidence: Ranking = field(default_factory=Ranking)
    by_error: Ranking = field(default_factory=Ranking)

    def add(self, expected: Numbers, errors: Numbers) -> None:
        """Expected and true errors of the same valid pixels, (N,) and (N,)."""
        self.by_confidence.add(expected, errors)
        self.by_error.add(errors, errors)

    def ause(self) -> float:
        """Area under the sparsification error, in degrees: 0 when the least sure pixels are the worst ones.

        Pixels are taken away, the least sure first, and the mean error of the rest is compared with
        that after taking away the worst ones first; the mean difference over all shares taken away
        (Ilg et al., Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow, ECCV 2018).
        """
        by_confidence = self.by_confidence.mean_error_without(SHARES)
        return float((by_confidence - self.by_error.mean_error_without(SHARES)).mean())

    def bins(self, at_most: int = 10) -> list[Bin]:
        """Pixels in groups of about one size, from the surest on; equal confidences stay together."""
        counts = self.by_confidence.counts
        middles = np.cumsum(counts) - counts / 2
        group = np.minimum(middles * at_most / max(1, counts.sum()), at_most - 1).astype(np.int64)
        columns = (counts, self.by_confidence.key_totals, self.by_confidence.error_totals)
        sums = zip(
            *(np.bincount(group, weights=column, minlength=at_most) for column in columns), strict=True
        )
        return [Bin(int(pixels), keys / pixels, errors / pixels) for pixels, keys, errors in sums if pixels]

    def calibration_error(self) -> float:
        """Mean distance of expected from true error over the bins, in degrees, weighted by their pixels."""
        bins = self.bins()
        distances = [abs(b.expected_error_degrees - b.true_error_degrees) for b in bins]
        return float(np.average(distances, weights=[b.pixels for b in bins]))
