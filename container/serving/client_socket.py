"""A client's connection: how long it is waited for, and what it has yet to take of its answers.

A client that is slow holds no thread: what it does not take at once is kept, and the main loop sends it
(`slow_clients`). Only where no room is left to keep it does the thread wait.
"""

import contextlib
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

STALL_SECONDS = 20.0
"""A client that sends or takes nothing for so long is given up."""
BYTES_PER_SECOND = 65_536
"""So is one that is slower than this, however regular: each byte earns it that much time, and no more is saved up."""
KEPT_ANYWAY_BYTES = 65_536
"""Of any client's answers: what a health check is told must never wait."""
PIECES = 16
"""Of an answer that are sent in one call."""
LOOK_SECONDS = 0.02
"""How late a thread may see that what it waits for is there, while its client takes what it has of its answer."""


class Room:
    """Memory that the slow clients of a worker share."""

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether so many bytes were free; then they are taken."""
        with self._lock:
            if count > self._free_bytes:
                return False
            self._free_bytes -= count
            return True

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._free_bytes += count


class ClientSocket(socket.socket):
    """An accepted connection. One thread at a time uses it: the main loop, or the one that it was given to."""

    def __init__(self, accepted: socket.socket, room: Room, stall_seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        super().settimeout(None)  # whatever a model has made the default
        self.deadline = math.inf
        """Until when (monotonic) the client is waited for."""
        self.is_whole = True
        """Whether all of the request had come before a thread began with it."""
        self.request_id: str | None = None
        self.must_close: Callable[[], None] = lambda: None
        """Let the answer say that the connection is closed after it."""
        self.when_read: Callable[[], Any] | None = None
        """Called once the body has been read."""
        self.when_gone: Callable[[], Any] | None = None
        """Called when the client is found to have left, while it is not None."""
        self._end = math.inf
        self._room = room
        self._room_bytes = 0
        self._stall_seconds = stall_seconds
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0

    def wait_from_now(self, *, until: float = math.inf) -> None:
        """Begin to wait for the client, in no case longer than `until` (monotonic)."""
        self._end = until
        self.deadline = min(time.monotonic() + self._stall_seconds, until)

    def _earn(self, count: int) -> None:
        earned = self.deadline + count / BYTES_PER_SECOND
        self.deadline = min(time.monotonic() + self._stall_seconds, earned, self._end)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Wait for bytes. Raises TimeoutError at the deadline."""
        left = self.deadline - time.monotonic()
        if not self._is_ready(select.POLLIN, left):
            raise TimeoutError("the client sends nothing more")
        return self.recv_now(size)

    def recv_now(self, size: int) -> bytes:
        """What has come, at most `size` bytes. Raises BlockingIOError where nothing has."""
        piece = super().recv(size, socket.MSG_DONTWAIT)
        self._earn(len(piece))
        return piece

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send it, or keep what the client does not take. Raises TimeoutError where neither can be done.

        The head of an answer is kept for what follows, or for `send_unsent`.
        """
        if not self._unsent:
            self.wait_from_now()
        self._unsent.append(memoryview(data))
        self.unsent_bytes += len(data)
        if len(self._unsent) == 1 and data[:5] == b"HTTP/" and len(data) <= KEPT_ANYWAY_BYTES:
            return
        self.send_unsent()
        while not self._keep():
            if not self._is_ready(select.POLLOUT, self.deadline - time.monotonic()):
                raise TimeoutError("the client does not take its answer")
            self.send_unsent()

    def send(self, data: Any, flags: int = 0) -> int:
        """Gunicorn's, of `100 Continue`. Raises BlockingIOError where the client does not even take that."""
        return super().send(data, flags | socket.MSG_DONTWAIT)

    def send_unsent(self) -> None:
        """Send as much of it as the client takes now."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                sent = super().sendmsg(islice(self._unsent, PIECES), (), socket.MSG_DONTWAIT)
                self._earn(sent)
                self.unsent_bytes -= sent
                while self._unsent and sent >= len(self._unsent[0]):
                    sent -= len(self._unsent.popleft())
                if sent:
                    self._unsent[0] = self._unsent[0][sent:]
        if not self._unsent:
            self._give_room()

    def send_until(self, is_over: Callable[[], bool]) -> None:
        """Send what was kept, in a thread that waits for more of the answer. Raises TimeoutError at the deadline."""
        while self._unsent and not is_over():
            if self._is_ready(select.POLLOUT, LOOK_SECONDS):
                self.send_unsent()
            elif self.deadline <= time.monotonic():
                raise TimeoutError("the client does not take its answer")

    def _keep(self) -> bool:
        missing = self.unsent_bytes - KEPT_ANYWAY_BYTES - self._room_bytes
        if missing <= 0:
            return True
        if not self._room.take(missing):
            return False
        self._room_bytes += missing
        return True

    def _give_room(self) -> None:
        self._room.give(self._room_bytes)
        self._room_bytes = 0

    def is_gone(self) -> bool:
        """Whether the client has closed its side: it does not wait for an answer."""
        return self._is_ready(select.POLLRDHUP, 0)

    def _is_ready(self, event: int, seconds: float) -> bool:
        """Whether it is, or becomes so in that time."""
        if seconds < 0:
            return False
        poll = select.poll()
        poll.register(self, event)
        return bool(poll.poll(seconds * 1000))

    def setblocking(self, flag: bool) -> None:
        """Gunicorn's: nothing here depends on it, and each call of the real one lets other threads go first."""

    def settimeout(self, value: float | None) -> None:
        """Likewise: `deadline` counts, which is then no later."""
        if value is not None:
            self.deadline = min(self.deadline, time.monotonic() + value)

    def close(self) -> None:
        """Gunicorn's, in a thread: nothing more comes or goes. The main loop, which may listen to it, ends it."""
        self._forget_unsent()
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close it."""
        self._forget_unsent()
        super().close()

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self.unsent_bytes = 0
        self._give_room()
