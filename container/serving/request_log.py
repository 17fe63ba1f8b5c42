"""A request's line in the log, as JSON: found by the id that the client has too.

One that was answered is there at LOG_LEVEL=DEBUG; one that failed always. /ping, which comes every
few seconds, leaves none.
"""

import logging
import time

from flask import Response
from werkzeug.exceptions import HTTPException

from serving.request import ServingRequest

_log = logging.getLogger(__name__)


def log_request(request: ServingRequest, answer: Response) -> None:
    """Write the line."""
    cause = request.cause
    if cause is None and request.endpoint != "invocations":
        return
    if cause is None:
        level = logging.DEBUG
    elif isinstance(cause, HTTPException):
        level = logging.INFO if answer.status_code < 500 else logging.WARNING
    else:
        level = logging.ERROR
    if not _log.isEnabledFor(level):
        return
    fields = {
        "request_id": request.id,
        "method": request.method,
        "path": request.path,
        "status": answer.status_code,
        "seconds": round(time.monotonic() - request.arrived, 4),
        "request_type": request.mimetype,
        "request_bytes": request.content_length,  # null where it came in chunks
        "answer_type": answer.mimetype,
        "answer_bytes": answer.content_length,
    }
    if isinstance(cause, HTTPException):
        _log.log(level, {**fields, "error": cause.description})
    elif cause is not None:
        _log.log(level, {**fields, "error": f"{type(cause).__name__}: {cause}"}, exc_info=cause)
    else:
        _log.log(level, fields)
