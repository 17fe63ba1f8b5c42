"""Part of the evaluation: how the error grows towards the edges of the shapes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

EDGE_DEGREES = 20.0
"""Neighbouring pixels whose truth differs by more lie on both sides of an edge."""
EDGE_SHARE = 0.05
"""So do those whose depth differs by a larger share, where the channel has depth."""
NEAR_PIXELS = (1, 2, 4, 8, 16)
"""Upper ends of the bins of distance: an edge's two pixels are at distance 1; the last bin is open."""

Mask = NDArray[np.bool_]


def edge_pixels(truth: NDArray[np.float32], valid: Mask, depth: NDArray[np.float32] | None = None) -> Mask:
    """(H, W): where the truth turns by more than EDGE_DEGREES to a neighbour, depth jumps, or the surface ends.

    truth (H, W, 3) unit where valid (H, W); depth (H, W), 0 where unknown. Without depth a step between two
    surfaces of one direction is no edge. The outline of an object on a background without truth is one.
    """
    edges = np.zeros(valid.shape, np.bool_)
    limit = np.cos(np.radians(EDGE_DEGREES))
    above, below, every = slice(None, -1), slice(1, None), slice(None)
    for first, second in (((above, every), (below, every)), ((every, above), (every, below))):
        turned = (truth[first] * truth[second]).sum(axis=2) < limit
        if depth is not None:
            near, far = np.minimum(depth[first], depth[second]), np.maximum(depth[first], depth[second])
            turned |= (near > 0) & (far - near > EDGE_SHARE * near)
        edge = (turned & valid[first] & valid[second]) | (valid[first] != valid[second])
        edges[first] |= edge
        edges[second] |= edge
    return edges


def distance_bins(edges: Mask) -> NDArray[np.int64]:
    """(H, W): the bin of each pixel's distance to the nearest edge, 0 to len(NEAR_PIXELS).

    Distances are of a chess king: a square that grows, which takes no more than shifts.
    """
    bins = np.full(edges.shape, len(NEAR_PIXELS), np.int64)
    reached, grown = edges, 1
    for index, distance in enumerate(NEAR_PIXELS):
        for _ in range(distance - grown):
            reached = _grow(reached)
        grown = distance
        bins = np.where(reached & (bins == len(NEAR_PIXELS)), index, bins)
    return bins


def _grow(mask: Mask) -> Mask:
    """Each true pixel's eight neighbours become true."""
    wide: Mask = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    tall: Mask = wide.copy()
    tall[1:] |= wide[:-1]
    tall[:-1] |= wide[1:]
    return tall


@dataclass(frozen=True)
class DistanceBin:
    """Pixels at about one distance from the nearest edge."""

    over_pixels: int
    up_to_pixels: int | None
    """None: no end."""
    pixels: int
    mean_error_degrees: float


@dataclass
class EdgeErrors:
    """Collects errors by distance to the nearest edge."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(NEAR_PIXELS) + 1, np.int64))
    totals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(NEAR_PIXELS) + 1))

    def add(
        self,
        truth: NDArray[np.float32],
        valid: Mask,
        errors: NDArray[np.float64],
        depth: NDArray[np.float32] | None = None,
    ) -> None:
        """One picture: (H, W, 3), (H, W), the errors of its valid pixels, (N,), and its depth, (H, W), where known.

        One without an edge is left out.
        """
        edges = edge_pixels(truth, valid, depth)
        if edges.any():
            bins = distance_bins(edges)[valid]
            self.counts += np.bincount(bins, minlength=self.counts.size)
            self.totals += np.bincount(bins, weights=errors, minlength=self.counts.size)

    def bins(self) -> list[DistanceBin]:
        """From the edges outwards; bins without a pixel are left out."""
        limits = [0, *NEAR_PIXELS, None]
        return [
            DistanceBin(int(limits[index] or 0), limits[index + 1], int(count), total / int(count))
            for index, (count, total) in enumerate(zip(self.counts, self.totals, strict=True))
            if count
        ]
