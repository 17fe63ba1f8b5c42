"""What can be told of a request from its first bytes: how long it will be, and whether it is a health check."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_OPEN = re.compile(rb"\r\n(transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """Of a request whose head is there: how many bytes it has.

    None: its body comes in chunks, or only when it is asked for; only who reads it can tell.
    """

    total_bytes: int | None

    def is_whole(self, received: int) -> bool:
        """Whether so many bytes are all of it."""
        return self.total_bytes is not None and received >= self.total_bytes


def frame_of(received: bytes | bytearray) -> Frame | None:
    """None while the head is not there."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = received[: end + 2]
    if _OPEN.search(head):
        return Frame(None)
    length = _LENGTH.search(head)
    return Frame(end + 4 + (int(length[1]) if length else 0))


def pattern_of_checks(paths: Iterable[str]) -> re.Pattern[bytes]:
    """What requests for these paths begin with, by every method that a prober may use."""
    choices = b"|".join(re.escape(path.encode("latin-1", "replace")) for path in paths)
    return re.compile(rb"(?:GET|HEAD|POST) (?:%s)(?:\?[^ ]*)? HTTP/1\.[01]\r\n" % choices)
