"""The benchmark's client: so many connections, each sending its next request when it has its answer.

One thread over plain sockets, as the client shares the processor cores with what it measures.
"""

import re
import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field

PING_EVERY_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Load:
    """What came of it."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds of each request that was answered 200."""
    pings: list[float] = field(default_factory=list)
    """Likewise of the health requests that were sent beside them."""
    failures: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in seconds that this share of the requests did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def median_seconds(self) -> float:
        """The median latency."""
        return statistics.median(self.latencies)


def post(path: str, body: bytes, content_type: str, host: str) -> bytes:
    """A request's bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    )
    return head.encode("ascii") + b"\r\n\r\n" + body


def get(path: str, host: str) -> bytes:
    """Likewise without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii")


class Connection:
    """One client's connection, and the request on its way."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address, self._request = address, request
        self.socket = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0

    def send(self) -> None:
        """Send the request."""
        self._answer, self._missing = bytearray(), None
        self.sent = time.perf_counter()
        self.socket.sendall(self._request)

    def receive(self) -> bool | None:
        """Read what is there: None while the answer is not complete, then whether it is a 200."""
        piece = self.socket.recv(1 << 20)
        if not piece:
            return False
        if self._missing is None:
            self._answer += piece
            end = self._answer.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = _LENGTH.search(self._answer, 0, end + 2)
            self._missing = end + 4 + int(length[1] if length else 0) - len(self._answer)
        else:
            self._missing -= len(piece)
        return None if self._missing > 0 else self._answer.startswith(b"HTTP/1.1 200")

    _answer: bytearray
    _missing: int | None


def closed_loop(
    address: tuple[str, int], request: bytes, *, connections: int, seconds: float, ping: bytes | None = None
) -> Load:
    """Keep `connections` requests on their way for `seconds`, then wait for the last answers.

    With `ping`, that request is sent beside them every PING_EVERY_SECONDS.
    """
    load, selector = Load(), selectors.DefaultSelector()
    running: set[Connection] = {Connection(address, request) for _ in range(connections)}
    pinger = Connection(address, ping) if ping else None
    for connection in [*running, *([pinger] if pinger else [])]:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    started = time.perf_counter()
    for connection in running:
        connection.send()
    ping_is_out, next_ping = False, started
    while running:
        now = time.perf_counter()
        if pinger and not ping_is_out and now >= next_ping:
            pinger.send()
            ping_is_out, next_ping = True, now + PING_EVERY_SECONDS
        events = selector.select(PING_EVERY_SECONDS / 5 if pinger else PATIENCE_SECONDS)
        if not events and now - max(c.sent for c in running) > PATIENCE_SECONDS:
            load.failures += len(running)
            break
        for key, _ in events:
            connection = key.data
            good = connection.receive()
            if good is None:
                continue
            now = time.perf_counter()
            if connection is pinger:
                ping_is_out = False
                load.pings.append(now - connection.sent)
                continue
            if good:
                load.latencies.append(now - connection.sent)
                load.seconds = now - started
            else:
                load.failures += 1
            if good and now - started < seconds:
                connection.send()
            else:
                selector.unregister(connection.socket)
                connection.socket.close()
                running.discard(connection)
    if pinger:
        pinger.socket.close()
    selector.close()
    return load


def exchange(address: tuple[str, int], request: bytes) -> tuple[int, bytes]:
    """One request's status and body. Raises OSError while nobody answers."""
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as client:
        client.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = bytearray()
        while piece := client.recv(1 << 20):
            answer += piece
    if not answer:
        raise ConnectionResetError("no answer")
    return int(answer.split(b" ", 2)[1]), bytes(answer.partition(b"\r\n\r\n")[2])
