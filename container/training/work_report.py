"""From the process that reports to the metrics agent: the few numbers it uses, those of one moment together.

The model reports number by number, and the agent's queue holds about ten messages.
"""

import threading

from metrics.period import TOLD_BY_TRAINING
from metrics.work import WorkSender

MOMENT_SECONDS = 0.1


class WorkReport:
    """Tells the agent at `address` after a moment; without one it does nothing."""

    def __init__(self, address: str | None) -> None:
        self._sender = WorkSender(address)
        self._figures: dict[str, float] = {}
        self._changing = threading.Lock()
        self._timer: threading.Timer | None = None

    def tell(self, name: str, value: float) -> None:
        """Take a reported number; most are not for the agent. Takes microseconds, never raises."""
        if name not in TOLD_BY_TRAINING:
            return
        with self._changing:
            if name in self._figures:  # the next report's
                self._send()
            self._figures[name] = value
            if self._timer is None:
                self._timer = threading.Timer(MOMENT_SECONDS, self._moment_is_over)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Tell what is left, and nothing more."""
        with self._changing:
            self._send()
            self._sender.close()

    def _moment_is_over(self) -> None:
        with self._changing:
            self._timer = None
            self._send()

    def _send(self) -> None:
        if self._figures:
            self._sender.send(**self._figures)
            self._figures = {}
