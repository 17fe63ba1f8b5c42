"""A training job, before all else: SIGTERM and SIGINT ask it to stop, a second one ends it at once.

The parent and each rank install the same handlers. Kept free of imports that take time.
"""

import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT)

ONE_REQUEST_SECONDS = 0.2
"""Signals this close are one request: `timeout`, some inits and Ctrl-C reach a process twice."""


def end_with_parent() -> None:
    """Have the kernel end this process with its parent, even one killed by SIGKILL.

    Outside a container a process left behind would write the same checkpoints as the next run's.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Stopped(BaseException):
    """The job was asked to stop, and its training is ended or never began."""


class StopSignals:
    """What was asked so far: `name` of the first signal, or None."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._requested_at = 0.0
        self._ended = False

    @property
    def requested(self) -> bool:
        return self.name is not None

    def install(self) -> None:
        """Take over the signals; what `held_back` kept arrives now."""
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def ignore(self) -> None:
        """Nothing is left to stop: what remains takes a moment and must not be cut short."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let signals wait meanwhile.

        A process started in here begins with them waiting too, until its own `install`: one that
        came while its interpreter was still starting would end it, and the stop would not be graceful.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name = signal.Signals(number).name
            self._requested_at = now
        elif now - self._requested_at > ONE_REQUEST_SECONDS and not self._ended:
            self._ended = True
            raise Stopped(f"by a second signal ({signal.Signals(number).name})")
