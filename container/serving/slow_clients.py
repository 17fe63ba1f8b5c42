"""Gunicorn's threaded worker, which gives a thread to a request and not to a connection.

Gunicorn lets a thread wait for a new connection's first byte, and then for the rest of the head: as many
silent clients as there are threads stop everyone else. Here they wait in the main loop, which costs nothing.
"""

import re
import selectors
import time
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

WAITING_BYTES = 65_536
"""A request that is no larger is given to a thread when all of it is there, any other when this much is."""
WAITING_SECONDS = 20.0
"""Then a client that has sent no whole head, or not the rest of a small body, is left."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:", re.IGNORECASE)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Overrides what Gunicorn's main loop does with a connection from which something may have come."""

    def enqueue_req(self, conn: Any) -> None:
        """Give it to a thread when its request can be read at once, else wait for more."""
        if not hasattr(conn, "received"):
            conn.received, conn.deadline = bytearray(), None
        if self._is_readable(conn):
            super().enqueue_req(conn)
            return
        if conn.deadline is None:  # else drops would keep it for ever
            conn.deadline = time.monotonic() + WAITING_SECONDS
        conn.timeout = conn.deadline
        self.pending_conns.append(conn)
        on_readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, on_readable)

    def _is_readable(self, conn: Any) -> bool:
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return True  # the next request came with the last one
        conn.sock.setblocking(False)
        try:
            piece = conn.sock.recv(WAITING_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the thread meets it again, and knows what to do
        conn.received += piece
        return not piece or is_whole(conn.received)

    def handle(self, conn: Any) -> Any:
        """In a thread: what has been read already comes first."""
        received = bytes(conn.received)
        conn.received, conn.deadline = bytearray(), None
        conn.data_ready = True
        if received:
            conn.init()
            conn.sock.setblocking(True)
            conn.parser.unreader.unread(received)
        return super().handle(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Gunicorn, stopping: connections without a request are kept no longer than that."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)


def is_whole(received: bytes | bytearray) -> bool:
    """Whether a thread can go on with a request of which so much has come."""
    end = received.find(b"\r\n\r\n")
    if end < 0 or len(received) >= WAITING_BYTES:
        return len(received) >= WAITING_BYTES
    head = received[: end + 2]
    length = _LENGTH.search(head)
    # A body in chunks, or one whose client waits for "100 Continue", is the thread's to ask for.
    if length is None or _EXPECTS.search(head):
        return True
    whole = end + 4 + int(length[1])
    return len(received) >= min(whole, WAITING_BYTES)
