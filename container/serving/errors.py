"""Every answer that is not 200: short JSON, because a SageMaker client sees 2,048 characters of it.

{"error": "Not Acceptable", "message": "...", "request_id": "...", and what would be right}
"""

import json
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, NotFound

from serving.request import this_request

MAX_ERROR_BYTES = 2048
RETRY_AFTER_SECONDS = 1


class RequestError(HTTPException):
    """A refusal: the status, what is wrong, and details that go into the JSON as they are."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = status
        self.details = details


def error_body(error: str, message: str, request_id: str | None = None, **details: Any) -> bytes:
    """The JSON of an error, the message cut until all of it fits."""
    known: Mapping[str, Any] = {"error": error, "message": message, "request_id": request_id, **details}
    body = json.dumps({name: value for name, value in known.items() if value is not None}).encode()
    if len(body) < MAX_ERROR_BYTES or not message:
        return body
    return error_body(error, message[: len(message) // 2], request_id, **details)


def bare_answer(status: str, message: str) -> bytes:
    """All of the answer to a client whose request does not reach the application; then the connection ends."""
    body = error_body(status.partition(" ")[2], message)
    head = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    if status.startswith("503"):
        head.append(f"Retry-After: {RETRY_AFTER_SECONDS}")
    return "\r\n".join([*head, "", ""]).encode("ascii") + body


def answer_in_json(app: Flask) -> None:
    """Let no HTML page and no traceback leave `app`; what was raised is kept for the log."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        if isinstance(error, NotFound):
            error = RequestError(
                404, "no such path", paths=sorted(rule.rule for rule in app.url_map.iter_rules())
            )
        this_request().cause = error
        return as_json(error)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        # Whatever it is, it is ours: the client gets no more than a key to the log.
        this_request().cause = error
        return as_json(RequestError(500, "the server failed on this request; its log has the cause"))


def as_json(error: HTTPException) -> Response:
    """The answer to the request at hand."""
    details = error.details if isinstance(error, RequestError) else {}
    answer = Response(
        error_body(error.name, error.description or "", this_request().id, **details),
        status=error.code,
        headers=error.get_headers(),  # Allow, for example
        content_type="application/json",
    )
    if error.code == 503:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer
