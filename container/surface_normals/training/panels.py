"""Part of the evaluation: the pictures that the report shows, small enough to keep all of them in memory."""

import heapq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surface_normals.codecs import Picture, lilac

FIXED, WORST = 6, 10
LONGEST_SIDE = 240
ERROR_SCALE_DEGREES = 60.0
NO_TRUTH = 40
"""Grey level where there is no truth."""


@dataclass(frozen=True)
class Panel:
    """One validation picture with what the model said of it; all arrays have one size, (h, w)."""

    name: str
    mean_error_degrees: float
    picture: Picture
    prediction: Picture
    """(h, w, 3): normals in the usual colours, like `truth`"""
    truth: Picture
    error: NDArray[np.uint8]
    """(h, w): 0 to 255 stands for 0 to ERROR_SCALE_DEGREES, and so in `expected_error`"""
    expected_error: NDArray[np.uint8]
    valid: NDArray[np.bool_]


@dataclass
class Panels:
    """Keeps the same FIXED pictures, spread over the data set, at each evaluation, and the WORST ones of this."""

    num_pictures: int
    fixed: list[Panel] = field(default_factory=list)
    _worst: list[tuple[float, int, Panel]] = field(default_factory=list)
    _seen: int = 0

    def add(
        self,
        name: str,
        picture: Picture,
        normals: NDArray[np.float32],
        truth: NDArray[np.float32],
        valid: NDArray[np.bool_],
        error_degrees: NDArray[np.float64],
        expected_error_degrees: NDArray[np.float32],
    ) -> None:
        """One picture of the data set, in order; `error_degrees` (N,) are those of its valid pixels."""
        index, self._seen = self._seen, self._seen + 1
        chosen = index in {place * self.num_pictures // FIXED for place in range(FIXED)}
        mean = float(error_degrees.mean()) if error_degrees.size else 0.0
        bad = error_degrees.size > 0 and (len(self._worst) < WORST or mean > self._worst[0][0])
        if not (chosen or bad):
            return
        error = np.zeros(valid.shape)
        error[valid] = error_degrees
        panel = Panel(
            name,
            mean,
            _shrink(picture),
            _shrink(lilac(normals)),
            _shrink(np.where(valid[:, :, None], lilac(truth), np.uint8(NO_TRUTH))),
            _shrink(_levels(error)),
            _shrink(_levels(expected_error_degrees)),
            _shrink(valid.astype(np.uint8) * 255) > 127,
        )
        if chosen:
            self.fixed.append(panel)
        if bad:
            # The index decides between equals: panels have no order.
            push = heapq.heappushpop if len(self._worst) == WORST else heapq.heappush
            push(self._worst, (mean, index, panel))

    @property
    def worst(self) -> list[Panel]:
        """The pictures of the largest mean errors, the worst first."""
        return [panel for _, _, panel in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)]


def _levels(degrees: NDArray[np.floating]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.round(np.clip(degrees / ERROR_SCALE_DEGREES, 0, 1) * 255).astype(np.uint8)
    return levels


def _shrink(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """To at most LONGEST_SIDE pixels a side; a smaller one stays as it is."""
    image = Image.fromarray(np.ascontiguousarray(array))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(image)
