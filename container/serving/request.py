"""A request as the application sees it: Flask's, with what this server knows of each from the start."""

import os
import random
import time
from collections.abc import Mapping
from typing import Any, cast

from flask import Request, request
from werkzeug.local import LocalProxy

from serving.client_socket import ClientSocket

REQUEST_ID_HEADER = "X-Amzn-SageMaker-Inference-Id"
MAX_ID = 64


class ServingRequest(Request):
    """The class of `flask.request` here."""

    def __init__(self, environ: Mapping[str, Any], **options: Any) -> None:
        super().__init__(environ, **options)  # type: ignore[arg-type]
        self.arrived = time.monotonic()
        """When the time for it began."""
        self.client: ClientSocket = environ["gunicorn.socket"]
        """Whoever sends it."""
        self.id = usable(environ.get(_ID_VARIABLE, ""), MAX_ID) or f"{_ids.getrandbits(128):032x}"
        """The client's own, if it names one that can be sent back."""
        self.cause: BaseException | None = None
        """What was raised instead of an answer, for the log."""
        self.client.request_id = self.id


# Of our own: a model may seed Python's, and then all its workers give the same ids.
_ids = random.Random()  # noqa: S311 (no secret)
os.register_at_fork(after_in_child=_ids.seed)
_ID_VARIABLE = "HTTP_" + REQUEST_ID_HEADER.upper().replace("-", "_")


def this_request() -> ServingRequest:
    """The one that this thread is at, itself: to look for it again with each question takes longer than the answers."""
    return cast("LocalProxy[ServingRequest]", request)._get_current_object()


def usable(text: str, length: int) -> str:
    """A header's text as far as it may stand in an answer's header: Gunicorn refuses to send some of what it takes."""
    return "".join(character for character in text if " " <= character <= "~")[:length]
