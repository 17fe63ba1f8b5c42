"""The application that each Gunicorn worker runs: a request's way from its bytes to its answer.

    headers -> gate -> body -> decode -> queue, batch, predict -> encode

Only the part between the commas runs in the model's thread; the rest in the request's own, so that
one bad picture spoils nobody's batch.
"""

import concurrent.futures
import os
import time
import uuid
from typing import Any

from flask import Flask, Response, g, jsonify, request

from model_api import Predictor
from serving.errors import RequestError, answer_in_json
from serving.gate import Gate
from serving.health import Health
from serving.media_types import request_type, response_type, sniffed_type
from serving.model_host import ModelHost
from serving.request_body import discard_body, limit_stalls, read_body
from serving.request_metrics import CONTENT_TYPE, RequestMetrics
from serving.settings import load_settings, run_directory

REQUEST_ID_HEADER = "X-Amzn-SageMaker-Inference-Id"
LAME_DUCK_SECONDS = 2.0
"""Time for whoever routes requests to hear that /ping fails, before new ones are refused."""
LEAVE_SECONDS = 20.0
"""Then running requests may take so long: SageMaker kills 30 s after SIGTERM, Gunicorn after 25."""


def create_app(*, workers: int) -> Flask:
    """Start loading the model, and answer meanwhile. `workers`: how many processes like this one."""
    settings = load_settings()
    metrics = RequestMetrics(run_directory())
    health = Health(
        run_directory(), pid=os.getpid(), workers=workers, max_failures=settings.max_consecutive_failures
    )
    gate = Gate(settings.max_queue, metrics)
    model = ModelHost(settings, run_directory(), health, metrics)
    model.start()

    app = Flask("serving", static_folder=None)
    answer_in_json(app)

    @app.before_request
    def arrive() -> None:
        g.arrived = time.monotonic()
        g.request_id = request.headers.get(REQUEST_ID_HEADER, "")[:64] or uuid.uuid4().hex
        limit_stalls(request, seconds=settings.request_timeout_seconds)

    @app.route("/ping", methods=["GET", "POST"])
    def ping() -> tuple[Response, int]:
        healthy, report = health.report()
        return jsonify(report), 200 if healthy else 503

    @app.post("/invocations")
    def invocations() -> Response:
        predictor = model.predictor
        if predictor is None:
            raise RequestError(503, "the model is still loading")
        answer_type = response_type(
            request.headers.get("Accept", ""), predictor.response_types, model.default_response_type
        )
        carried_type = request_type(request.mimetype, predictor.request_types)
        with gate.hold():
            body = read_body(request, limit_bytes=settings.max_body_bytes)
            value = decode(predictor, body, carried_type or sniffed_type(body, predictor.request_types))
            del body  # it need not lie in memory while the request waits
            output = predict(value)
            with metrics.stage.labels("encode").time():
                return Response(predictor.encode(output, answer_type), content_type=answer_type)

    def decode(predictor: Predictor, body: bytes, media_type: str) -> Any:
        try:
            with metrics.stage.labels("decode").time():
                return predictor.decode(body, media_type)
        except ValueError as error:
            status = getattr(error, "status", 400)
            raise RequestError(status if 400 <= status < 500 else 400, str(error)) from error

    def predict(value: Any) -> Any:
        left = g.arrived + settings.request_timeout_seconds - time.monotonic()
        output = model.batcher.submit(value)
        if not concurrent.futures.wait([output], timeout=max(0.0, left)).done:
            output.cancel()  # if it still waits, the model is spared the work
            raise RequestError(
                504, f"no answer within {settings.request_timeout_seconds} s (REQUEST_TIMEOUT_SECONDS)"
            )
        error = output.exception()
        if error is not None:
            if isinstance(error, MemoryError) or "out of memory" in str(error):
                raise RequestError(507, "not enough memory for this input") from error  # the model is well
            health.prediction_failed(error)
            raise error
        health.prediction_succeeded()
        return output.result()

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    @app.after_request
    def leave(answer: Response) -> Response:
        answer.headers[REQUEST_ID_HEADER] = g.request_id
        if answer.status_code >= 400:
            discard_body(request)
        if request.path == "/invocations":
            metrics.requests.labels(answer.status_code).inc()
            metrics.latency.observe(time.monotonic() - g.arrived)
        return answer

    def drain() -> None:
        health.drain()
        if model.predictor is not None:
            time.sleep(LAME_DUCK_SECONDS)
            gate.close(timeout_seconds=LEAVE_SECONDS)

    app.extensions["drain"] = drain
    return app
