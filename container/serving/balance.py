"""Which of several workers takes a new client: one that has fewer than the others.

The kernel wakes all of them, and the first one has it: mostly the one that is awake already, until it has all
the clients, and another GPU none.
"""

import mmap

TAKES_NOBODY = 2**32 - 1


class Balance:
    """How many clients each worker has, in memory that the master shares with all of them."""

    def __init__(self, workers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * workers)).cast("I")
        for place in range(workers):
            self.close(place)

    def tell(self, place: int, clients: int) -> None:
        """The worker at `place` has so many, and takes more."""
        self._counts[place] = clients

    def close(self, place: int) -> None:
        """It takes nobody: its model is loading, or it is full, or dead."""
        self._counts[place] = TAKES_NOBODY

    def has_more(self, place: int) -> bool:
        """Whether another one that takes clients has fewer than the one at `place`."""
        return min(self._counts) < self._counts[place]
