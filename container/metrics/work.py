"""From the trainer to the agent: what it did, as datagrams that never wait.

A datagram is one JSON object of numbers. The address is a name in Linux's abstract socket
namespace: it needs no folder to write to, and is gone with the agent. Whoever sends does not know
whether an agent listens; what finds its queue full is dropped and counted.
"""

import contextlib
import json
import math
import socket
from collections.abc import Iterator, Mapping

MESSAGE_BYTES = 2048
RECEIVE_BYTES = 2**20
"""Room for datagrams that wait, as far as the system grants it: bursts while the agent is behind."""


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
        """Send nothing more."""
        if self._socket is not None:
            self._socket.close()

    def send(self, **figures: float) -> None:
        """Tell numbers by the names of `metrics.period`. Takes microseconds, never waits, never raises."""
        if self._socket is None:
            return
        dropped = self._dropped
        message = {**figures, "dropped": dropped} if dropped else figures
        try:
            self._socket.sendto(json.dumps(message).encode(), self._address)
        except BlockingIOError:
            self._dropped += 1
        except OSError:  # nobody listens: the agent is not up yet, or has ended
            return
        else:
            self._dropped -= dropped


def listen(address: str) -> socket.socket:
    """The agent's end. Raises OSError when another one has the address."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    receiver.bind("\0" + address)
    return receiver


def messages(receiver: socket.socket) -> Iterator[Mapping[str, float]]:
    """What arrives, for ever; what is not an object of finite numbers is passed over."""
    while True:
        datagram = receiver.recv(MESSAGE_BYTES)
        with contextlib.suppress(ValueError):
            message = json.loads(datagram)
            if isinstance(message, dict):
                yield {name: value for name, value in message.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
