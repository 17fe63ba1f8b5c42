"""The paths of a multi-model endpoint: SageMaker loads, lists and unloads models here, and invokes them by name."""

import http.client
import json
from typing import Any

from flask import Flask, Response, jsonify, request

from serving.errors import RequestError
from serving.gate import Gate
from serving.invocation import ATTRIBUTES_HEADER
from serving.multi_model.table import Model, Models
from serving.request import REQUEST_ID_HEADER, this_request
from serving.request_body import full_disk_refused, read_body, spool
from serving.settings import MEBIBYTE, Settings

MODELS_A_PAGE = 100
SPARE_SECONDS = 5.0
"""The model's own server says first that a request took too long."""
NEWS_SECONDS = 1.0
"""For it to be known what a server that breaks off ended of."""
NOT_HANDED_ON = {
    "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    ATTRIBUTES_HEADER.lower(),  # given back by whoever speaks to the client
}  # fmt: skip
"""Headers of a request that are not the model's."""
HANDED_BACK = ("Content-Type", "Retry-After", ATTRIBUTES_HEADER)


def add_model_routes(app: Flask, models: Models, gate: Gate, settings: Settings) -> None:
    """Let `app` answer for `models`."""

    @app.post("/models")
    def load_model() -> Response:
        with full_disk_refused(), spool() as body:
            read_body(this_request(), body, limit_bytes=MEBIBYTE)
            name, url = _name_and_url(body.read())
        models.load(name, url)
        return jsonify(_described(models.get(name)))

    @app.get("/models")
    def list_models() -> Response:
        names = models.names()
        after = request.args.get("next_page_token", "")
        page = [name for name in names if name > after][:MODELS_A_PAGE]
        described = []
        for name in page:
            try:
                described.append(_described(models.get(name)))
            except RequestError:
                continue  # unloaded meanwhile
        listed: dict[str, Any] = {"models": described}
        if page and page[-1] != names[-1]:
            listed["nextPageToken"] = page[-1]
        return jsonify(listed)

    @app.get("/models/<path:name>")
    def get_model(name: str) -> Response:
        return jsonify(_described(models.get(name)))

    @app.delete("/models/<path:name>")
    def unload_model(name: str) -> Response:
        models.unload(name)
        return jsonify({})

    @app.post("/models/<path:name>/invoke", endpoint="invocations")
    def invoke_model(name: str) -> Response:
        headers = {key: value for key, value in request.headers if key.lower() not in NOT_HANDED_ON}
        headers[REQUEST_ID_HEADER] = this_request().id  # one id in both logs
        timeout_seconds = settings.request_timeout_seconds + SPARE_SECONDS
        with gate.hold(), models.use(name) as process, full_disk_refused(), spool() as body:
            read_body(this_request(), body, limit_bytes=settings.max_body_bytes)
            headers["Content-Length"] = str(body.seek(0, 2))
            body.seek(0)
            try:
                status, answered, content = process.ask(
                    "POST", "/invocations", body, headers, timeout_seconds=timeout_seconds
                )
            except TimeoutError as error:
                raise RequestError(504, f"no answer within {timeout_seconds:.0f} s") from error
            except (OSError, http.client.HTTPException) as error:
                killed = process.killed.wait(NEWS_SECONDS)
                cause = "was killed, out of memory most likely" if killed else f"failed: {error!r}"
                raise RequestError(507 if killed else 500, f"the server of model {name!r} {cause}") from error
        answer = Response(content, status)
        for header in HANDED_BACK:
            if header in answered:
                answer.headers[header] = answered[header]
        return answer


def _name_and_url(body: bytes) -> tuple[str, str]:
    try:
        told = json.loads(body)
        name, url = told["model_name"], told["url"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RequestError(400, 'the body is not JSON with "model_name" and "url"') from error
    if not (isinstance(name, str) and name and isinstance(url, str) and url):
        raise RequestError(400, '"model_name" and "url" are texts')
    return name, url


def _described(model: Model) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}
