"""How many requests a worker holds at once, from before the body is read until the answer is made.

The bound stands in front of everything, so that threads for /ping are left however many come.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import RequestError
from serving.request_metrics import RequestMetrics


class Gate:
    """Lets `limit` requests in at a time; a closed gate lets none in."""

    def __init__(self, limit: int, metrics: RequestMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be inside. Raises RequestError 503 when the gate is closed or the worker has enough to do."""
        with self._changed:
            if self._closed:
                raise RequestError(503, "the server is shutting down")
            if self._inside >= self._limit:
                raise RequestError(503, "the queue is full", max_queue=self._limit)
            self._inside += 1
            self._metrics.in_flight = self._inside
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._metrics.in_flight = self._inside
                self._changed.notify_all()

    def close(self, *, timeout_seconds: float) -> None:
        """Let nobody in any more, and wait until everybody has left."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._inside == 0, timeout_seconds)
