"""Gunicorn's threaded worker, which gives a thread to a request and not to a connection.

Gunicorn lets a thread wait for a new connection's first byte, and then for the rest of the head: as many
silent clients as there are threads stop everyone else. Here they wait in the main loop, which costs nothing.

/ping needs no thread at all: the main loop answers it, however many threads work or wait for their turn.
"""

import fcntl
import re
import selectors
import socket
import sys
import termios
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

WAITING_BYTES = 65_536
"""A request that is no larger is given to a thread when all of it is there, any other when this much is."""
WAITING_SECONDS = 20.0
"""Then a client that has sent no whole head, or not the rest of a small body, is left."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_PINGS = (b"GET /ping ", b"GET /healthz ")
_NOT_ALL = re.compile(rb"\r\n(content-length|transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Overrides what Gunicorn's main loop does with a connection from which something may have come."""

    def enqueue_req(self, conn: Any) -> None:
        """Answer it if it is a ping, give it to a thread when its request can be read at once, or wait for more."""
        if not hasattr(conn, "received"):
            conn.received, conn.deadline = bytearray(), None
        if self._is_readable(conn):
            if is_ping(conn.received) and not unsent_bytes(conn.sock):
                answered: Future[Any] = Future()
                answered.set_result(self.handle(conn))
                self.finish_request(conn, answered)
            else:
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


def is_ping(received: bytes | bytearray) -> bool:
    """Whether it is a health check and nothing else, so that reading it cannot take time."""
    return (
        received.startswith(_PINGS)
        and received.find(b"\r\n\r\n") == len(received) - 4
        and _NOT_ALL.search(received) is None
    )


def unsent_bytes(sock: socket.socket) -> int:
    """What the client has yet to take of earlier answers (tcp(7), SIOCOUTQ): for one that takes none, sending waits."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


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
