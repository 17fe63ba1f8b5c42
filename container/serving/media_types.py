"""Which of the model's media types a request carries, and in which it is answered."""

from collections.abc import Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from serving.errors import RequestError

NO_TYPE = ("", "application/octet-stream")


def request_type(mimetype: str, supported: Sequence[str]) -> str | None:
    """The one of `supported` that is `mimetype`; None when the header does not tell, and the bytes must.

    `mimetype` is in lower case and without parameters. Raises RequestError 415.
    """
    if mimetype in NO_TYPE:
        return None
    if mimetype not in supported:
        raise RequestError(415, f"Content-Type {mimetype!r} is not supported", supported=list(supported))
    return mimetype


def sniffed_type(body: bytes, supported: Sequence[str]) -> str:
    """The media type that the first bytes show, or the model's first when they show none of its own."""
    if body.startswith(b"\xff\xd8\xff"):
        found = "image/jpeg"
    elif body.startswith(b"\x89PNG\r\n\x1a\n"):
        found = "image/png"
    elif body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        found = "image/webp"
    elif body.startswith(b"\x93NUMPY"):
        found = "application/x-npy"
    else:
        found = supported[0]
    return found if found in supported else supported[0]


def response_type(accept: str, supported: Sequence[str], default: str) -> str:
    """The best of `supported` for an Accept header, `default` where it leaves the choice to us.

    Parameters count: `image/png;bits=16` is another type than `image/png`. Raises RequestError 406.
    """
    if not accept.strip():
        return default
    ordered = [default, *(name for name in supported if name != default)]
    best = parse_accept_header(accept, MIMEAccept).best_match(ordered)
    if best is None:
        raise RequestError(406, f"nothing in Accept {accept!r} can be made", supported=list(supported))
    return best
