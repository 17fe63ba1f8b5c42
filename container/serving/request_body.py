"""Reads a request's body from Gunicorn's stream, which ends where the body ends, chunked or not.

Not Flask's `get_data`: of a chunked body over its limit it returns the beginning, as if that were all.
"""

import time

from flask import Request
from gunicorn.http.errors import ParseException

from serving.errors import RequestError
from serving.settings import MEBIBYTE

DISCARD_SECONDS = 10.0
"""Enough for a gigabyte from the same host, where SageMaker's own proxy sends from."""


def limit_stalls(request: Request, *, seconds: float) -> None:
    """Let no read or write wait longer for the client: it would hold its thread for ever."""
    request.environ["gunicorn.socket"].settimeout(seconds)


def read_body(request: Request, *, limit_bytes: int) -> bytes:
    """All of the body. Raises RequestError 400, 408 or 413."""
    length = request.content_length
    too_large = RequestError(
        413, f"the body is larger than {limit_bytes} bytes (MAX_BODY_MB)", max_body_bytes=limit_bytes
    )
    if length is not None and length > limit_bytes:
        raise too_large
    try:
        body: bytes = request.environ["wsgi.input"].read(limit_bytes + 1)
    except TimeoutError:
        raise RequestError(408, "the rest of the body did not come") from None
    except (OSError, ParseException) as error:
        raise RequestError(400, f"the body ended early or is broken: {error}") from None
    if len(body) > limit_bytes:
        raise too_large
    if length is not None and len(body) < length:
        raise RequestError(400, f"the body ended after {len(body)} of {length} bytes")
    return body


def discard_body(request: Request) -> None:
    """Read what is left, and drop it.

    A client sends its whole body before it reads the answer; if the connection were closed with
    bytes unread, it would see a reset and never the reason.
    """
    stream = request.environ["wsgi.input"]
    end = time.monotonic() + DISCARD_SECONDS
    try:
        while time.monotonic() < end and stream.read(MEBIBYTE):
            pass
    except (OSError, ParseException):
        return
