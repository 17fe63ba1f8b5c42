"""Whether what is asked for has become unlike what the model was measured on: two distances for each of its figures.

    an answered request -> the model's figures of it -> counts by the reference's bins -> distances, once a minute

The bins are those that the model brings, so that an hour of traffic takes no more memory than a minute. Each worker
counts its own requests: they are shared out evenly, so each sees the same distribution, only later than all together.
"""

import logging
import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from metrics.emf import FIGURE_CHARACTERS
from model_api import Histogram

MIN_COUNT = 200
"""Of inputs, in the reference and since the window began. From 200 on, chance alone makes the largest index of nine
figures with eight bins exceed 0.25 in less than one window of a hundred (drawn from multinomial distributions)."""
WINDOW_SECONDS = 3600.0
"""Then counting begins anew, if there was enough to tell; until there is again, the window before is what is told."""
SECONDS_BETWEEN_LOOKS = 0.05
"""Of a worker, at least: twenty inputs a second tell as much as two hundred."""
LOOKING_SHARE = 0.002
"""Of the processor time of a core; a model whose figures take long is looked at less often."""

_log = logging.getLogger(__name__)


class Distance(NamedTuple):
    """Between the reference's distribution of a figure and the one that was seen."""

    psi: float
    """Population stability index: below 0.1 alike, above 0.25 not; see `population_stability_index`."""
    ks: float
    """Kolmogorov and Smirnov's: the largest difference of the shares below any bin's edge, 0 to 1."""


def population_stability_index(seen: Sequence[int], reference: Sequence[int]) -> float:
    """sum (p - q) ln (p / q) over the bins' shares, which is Jeffreys' divergence; 0 and above.

    Half a count is added to each bin, so that an empty one makes it large and not infinite.
    """
    p, q = _shares(seen), _shares(reference)
    return sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + 0.5 * len(counts)
    return [(count + 0.5) / total for count in counts]


def kolmogorov_smirnov(seen: Sequence[int], reference: Sequence[int]) -> float:
    """max |P(x) - Q(x)| of the shares up to the end of each bin: a lower bound of the distance without bins."""
    pairs = zip(accumulate(seen), accumulate(reference), strict=True)
    return max(abs(a / sum(seen) - b / sum(reference)) for a, b in pairs)


class DriftWatch:
    """Counts of this worker, a window of time after another.

    `describe` gives an input and its output a number for each figure of `reference`.
    """

    def __init__(
        self,
        reference: Mapping[str, Histogram],
        describe: Callable[[Any, Any], Mapping[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reference, self._describe, self._clock = reference, describe, clock
        self._lock = threading.Lock()
        self._next_look = -math.inf
        self._is_broken = False
        self._told: dict[str, Distance] = {}
        self._begin()

    def restart(self) -> None:
        """Begin a window; `distances` stay this one's until the new one has enough."""
        self.distances()
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._began = self._clock()
        self.count = 0
        self._seen = {name: [0] * len(histogram["counts"]) for name, histogram in self._reference.items()}

    def look(self, value: Any, output: Any) -> None:
        """Count an answered request, unless one was counted a moment ago. Never raises: the answer is made."""
        now = self._clock()
        if now < self._next_look or self._is_broken:
            return
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        began = time.thread_time()
        try:
            figures = self._describe(value, output)
            places = {
                name: bisect_right(histogram["edges"], figures[name])
                for name, histogram in self._reference.items()
            }
        except Exception as error:  # noqa: BLE001 (the model's own code may raise anything)
            self._is_broken = True
            _log.warning("drift is watched no more: %s: %s", type(error).__name__, error)
            return
        self._next_look = now + max(SECONDS_BETWEEN_LOOKS, (time.thread_time() - began) / LOOKING_SHARE)
        with self._lock:
            self.count += 1
            for name, place in places.items():
                self._seen[name][place] += 1

    def distances(self) -> dict[str, Distance]:
        """Of each figure, the largest PSI first: of the newest window with enough; none before the first has."""
        with self._lock:
            seen = {name: list(counts) for name, counts in self._seen.items()}
            if not self.has_enough:
                return self._told
        found = {}
        for name, counts in seen.items():
            reference = self._reference[name]["counts"]
            psi, ks = population_stability_index(counts, reference), kolmogorov_smirnov(counts, reference)
            found[name] = Distance(round(psi, 4), round(ks, 4))
        self._told = dict(sorted(found.items(), key=lambda item: -item[1].psi))
        return self._told

    @property
    def has_enough(self) -> bool:
        """Whether so many were counted in this window that its distances say something."""
        return self.count >= MIN_COUNT

    @property
    def is_over(self) -> bool:
        """Whether the window has been long enough."""
        return self._clock() - self._began >= WINDOW_SECONDS and self.has_enough


def open_watch(predictor: Any) -> DriftWatch | None:
    """For a model that says what it was measured on; None for one that does not, or on too little.

    Raises ValueError when it says so wrongly.
    """
    reference, describe = getattr(predictor, "reference", None), getattr(predictor, "describe", None)
    if not reference or describe is None:
        return None
    for name, histogram in reference.items():
        if not (name.isascii() and name.isidentifier() and len(name) <= FIGURE_CHARACTERS):
            raise ValueError(
                f"the model's reference has a figure {name!r}: "
                f"a name is at most {FIGURE_CHARACTERS} of A-Z, a-z, 0-9, _"
            )
        edges, counts = histogram["edges"], histogram["counts"]
        if len(counts) != len(edges) + 1 or sorted(edges) != list(edges):
            raise ValueError(
                f"the model's reference of {name!r} needs rising edges, and one count more than edges"
            )
        if sum(counts) < MIN_COUNT:
            _log.info(
                "drift is not watched: the model was measured on %d inputs, %d are needed",
                sum(counts),
                MIN_COUNT,
            )
            return None
    return DriftWatch(reference, describe)
