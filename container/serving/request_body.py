"""Reads a request's body from Gunicorn's stream, which ends where the body ends, chunked or not.

Small bodies stay in memory, large ones lie in a file without a name below the temporary folder: an
asynchronous request may have a gigabyte, and several may come at once.

Not Flask's `get_data`: of a chunked body over its limit it returns the beginning, as if that were all.
"""

import errno
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from flask import Request
from gunicorn.http.errors import ParseException

from serving.errors import RequestError
from serving.settings import MEBIBYTE, run_directory

IN_MEMORY_BYTES = 8 * MEBIBYTE
"""Nearly every picture is smaller."""
PIECE_BYTES = MEBIBYTE
STALL_SECONDS = 10.0
"""No byte for so long is no slow network: SageMaker hands on requests that it has whole."""
DISCARD_SECONDS = 10.0
"""Enough for a gigabyte from the same host, where SageMaker's own proxy sends from."""


def limit_stalls(request: Request, *, seconds: float) -> None:
    """Let no read or write wait longer for the client: it would hold its thread, and its place, for ever."""
    request.environ["gunicorn.socket"].settimeout(min(seconds, STALL_SECONDS))


def spool() -> IO[bytes]:
    """A file that is in memory while it is small, and gone when it is closed.

    Its folder is named: left to itself, Python looks for another when the temporary one is full.
    """
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=str(run_directory()))


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Raises RequestError 507 when a file of `spool` finds no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RequestError(507, f"no room for this request in {run_directory().parent}") from error


def read_body(request: Request, file: IO[bytes], *, limit_bytes: int) -> None:
    """Write all of the body to `file`, and go back to its start. Raises RequestError 400, 408 or 413."""
    length = request.content_length
    too_large = RequestError(
        413, f"the body is larger than {limit_bytes} bytes (MAX_BODY_MB)", max_body_bytes=limit_bytes
    )
    if length is not None and length > limit_bytes:
        raise too_large
    read_bytes = 0
    while piece := _read_piece(request):
        read_bytes += len(piece)
        if read_bytes > limit_bytes:
            raise too_large
        file.write(piece)
    if length is not None and read_bytes < length:
        raise RequestError(400, f"the body ended after {read_bytes} of {length} bytes")
    file.seek(0)


def _read_piece(request: Request) -> bytes:
    try:
        piece: bytes = request.environ["wsgi.input"].read(PIECE_BYTES)
    except TimeoutError:
        raise RequestError(408, "the rest of the body did not come") from None
    except (OSError, ParseException) as error:
        raise RequestError(400, f"the body ended early or is broken: {error}") from None
    return piece


def discard_body(request: Request) -> None:
    """Read what is left, and drop it.

    A client sends its whole body before it reads the answer; if the connection were closed with
    bytes unread, it would see a reset and never the reason.
    """
    stream = request.environ["wsgi.input"]
    end = time.monotonic() + DISCARD_SECONDS
    try:
        while time.monotonic() < end and stream.read(PIECE_BYTES):
            pass
    except (OSError, ParseException):
        return
