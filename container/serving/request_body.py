"""Reads a request's body from Gunicorn's stream, which ends where the body ends, chunked or not.

Small bodies stay in memory, large ones lie in a file without a name below the temporary folder: an
asynchronous request may have a gigabyte, and several may come at once.

Not Flask's `get_data`: of a chunked body over its limit it returns the beginning, as if that were all.
"""

import errno
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from gunicorn.http.errors import ParseException

from serving.errors import RequestError
from serving.request import ServingRequest
from serving.settings import MEBIBYTE, run_directory

IN_MEMORY_BYTES = 8 * MEBIBYTE
"""Nearly every picture is smaller."""
PIECE_BYTES = MEBIBYTE


def spool(expected_bytes: int | None = None) -> IO[bytes]:
    """A file that is in memory while it is small, and gone when it is closed.

    Its folder is named: left to itself, Python looks for another when the temporary one is full.
    """
    if expected_bytes is not None and expected_bytes <= IN_MEMORY_BYTES:
        return io.BytesIO()  # made many times as fast as the other
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


def read_body(request: ServingRequest, file: IO[bytes], *, limit_bytes: int) -> None:
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
    client = request.client
    client.is_whole = True
    if client.when_read is not None:
        client.when_read()


def _read_piece(request: ServingRequest) -> bytes:
    try:
        piece: bytes = request.environ["wsgi.input"].read(PIECE_BYTES)
    except TimeoutError:
        raise RequestError(408, "the rest of the body did not come") from None
    except (OSError, ParseException) as error:
        raise RequestError(400, f"the body ended early or is broken: {error}") from None
    return piece


def discard_body(request: ServingRequest) -> None:
    """Drop what is left of it: where that has yet to come, the connection ends after the answer.

    A client sends its whole body before it reads the answer, and would see a reset and never the reason if
    nobody read it; the main loop does (`slow_clients`), so that no thread waits for a body that nobody wants.
    """
    client = request.client
    if not client.is_whole:
        client.must_close()
        return
    with suppress(OSError, ParseException):
        while request.environ["wsgi.input"].read(PIECE_BYTES):
            pass
