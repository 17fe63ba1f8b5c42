"""The threads that handle a worker's requests, started as they are needed.

Not Python's executor: the future that it makes for each call, which nobody here waits for, takes longer than
a small request.
"""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue


class RequestThreads:
    """Gunicorn's name for it is a thread pool. Only the main loop submits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle: deque[None] = deque()  # one for each thread that has nothing to do

    def submit(self, call: Callable[[], None]) -> None:
        """Call it, which raises nothing, in a thread: a new one where none is idle and fewer than `limit` are there."""
        self._calls.put(call)
        try:
            self._idle.pop()
        except IndexError:
            if self._count < self._limit:
                self._count += 1
                threading.Thread(target=self._run, name="request", daemon=True).start()

    def shutdown(self, wait: bool) -> None:
        """Let each thread end when it has done. Called by Gunicorn, which does not wait."""
        for _ in range(self._count):
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._idle.append(None)
