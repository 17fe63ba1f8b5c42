"""From the trainer and the workers to the agent: what they did, as datagrams that never wait.

A datagram is one JSON object of numbers, or of lists of numbers. The address is a name in Linux's
abstract socket namespace: it needs no folder to write to, and is gone with the agent. Whoever sends
does not know whether an agent listens; what finds its queue full is dropped and counted. That queue
is short (net.unix.max_dgram_qlen, usually 10): what belongs together is sent together.
"""

import contextlib
import json
import math
import socket
from collections.abc import Iterator, Mapping, Sequence

MESSAGE_BYTES = 2048
COUNT_BYTES = 40
"""Of these, for the number of messages dropped before."""

Figure = float | Sequence[float]
Message = Mapping[str, Figure]


class WorkSender:
    """Sends to the agent at `address`; without one it does nothing. May be used by many threads."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        self._address = "\0" + (address or "")
        self._dropped = 0
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def close(self) -> None:
        """Tell what was dropped, and send nothing more."""
        if self._socket is not None:
            if self._dropped:
                self._send({})
            self._socket.close()

    def send(self, **figures: Figure) -> None:
        """Tell numbers by the names of `metrics.period`. Takes microseconds, never waits, never raises."""
        if self._socket is not None:
            for part in _parts(figures):
                self._send(part)

    def _send(self, figures: Message) -> None:
        assert self._socket is not None
        dropped = self._dropped
        message = {**figures, "dropped": dropped} if dropped else figures
        try:
            self._socket.sendto(_encoded(message), self._address)
        except BlockingIOError:
            self._dropped += 1
        except OSError:  # nobody listens: the agent is not up yet, or has ended
            return
        else:
            self._dropped -= dropped


def _parts(figures: Message) -> Iterator[Message]:
    """The figures in as few messages as hold them."""
    if len(figures) < 2 or len(_encoded(figures)) <= MESSAGE_BYTES - COUNT_BYTES:
        yield figures
        return
    items = list(figures.items())
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from _parts(dict(half))


def _encoded(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def listen(address: str) -> socket.socket:
    """The agent's end. Raises OSError when another one has the address."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind("\0" + address)
    return receiver


def messages(receiver: socket.socket) -> Iterator[Message]:
    """What arrives, until `receiver` is shut down and empty; what is not finite numbers is passed over."""
    while datagram := receiver.recv(MESSAGE_BYTES):
        with contextlib.suppress(ValueError):
            message = json.loads(datagram)
            if isinstance(message, dict):
                yield {name: figure for name, figure in message.items() if _is_figure(figure)}


def values(message: Message, name: str) -> Sequence[float]:
    """The numbers that a message tells by this name; none where it does not know it."""
    figure = message.get(name, ())
    return figure if isinstance(figure, Sequence) else (figure,)


def _is_figure(value: object) -> bool:
    return all(map(_is_number, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
