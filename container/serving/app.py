"""The application that each Gunicorn worker runs: its paths, and what all answers have in common."""

import os
import time

from flask import Flask, Response, jsonify

from serving.errors import answer_in_json
from serving.execution_parameters import available_memory_bytes, execution_parameters
from serving.gate import Gate
from serving.health import Health
from serving.invocation import ATTRIBUTES_HEADER, Invocations
from serving.model_host import ModelHost
from serving.multi_model.routes import add_model_routes
from serving.multi_model.table import Models
from serving.request import REQUEST_ID_HEADER, ServingRequest, this_request, usable
from serving.request_body import discard_body
from serving.request_log import log_request
from serving.request_metrics import CONTENT_TYPE, RequestMetrics
from serving.settings import MODELS_FOLDER, Settings, load_settings, run_directory, visible_gpus
from serving.work_report import WorkReport

MAX_HEADER = 1024
"""Characters of a header that SageMaker hands on."""
LAME_DUCK_SECONDS = 2.0
"""Time for whoever routes requests to hear that /ping fails, before new ones are refused."""
LEAVE_SECONDS = 20.0
"""Then running requests may take so long: SageMaker kills 30 s after SIGTERM, Gunicorn after 25."""


def create_app(*, workers: int, work_address: str | None = None) -> Flask:
    """Start loading the model, and answer meanwhile. `workers`: how many processes like this one.

    `work_address`: where the metrics agent hears of the requests.
    """
    settings = load_settings()
    metrics = RequestMetrics(run_directory())
    health = Health(
        run_directory(),
        pid=os.getpid(),
        workers=workers,
        max_failures=settings.max_consecutive_failures,
        model=None if settings.multi_model else settings.model_package,
        gpu=", ".join(visible_gpus()) or None,
    )
    gate = Gate(settings.max_queue, metrics)
    app = Flask("serving", static_folder=None)
    app.request_class = ServingRequest
    answer_in_json(app)

    @app.route("/ping", methods=["GET", "POST"])
    def ping() -> tuple[Response, int]:
        healthy, report = health.report()
        return jsonify(report), 200 if healthy else 503

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(state="alive")

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    if settings.health_route:
        app.add_url_rule(settings.health_route, view_func=ping, methods=["GET", "POST"])

    @app.after_request
    def leave(answer: Response) -> Response:
        request = this_request()
        answer.headers[REQUEST_ID_HEADER] = request.id
        if answer.status_code >= 400:
            discard_body(request)
        if request.endpoint == "invocations":
            metrics.answered(answer.status_code, time.monotonic() - request.arrived)
            hand_attributes_on(request, answer)
        log_request(request, answer)
        request.cause = None  # whose traceback holds this request, and its body
        return answer

    if settings.multi_model:
        models = Models(
            run_directory() / MODELS_FOLDER,
            visible_gpus(),
            request_timeout_seconds=settings.request_timeout_seconds,
        )
        add_model_routes(app, models, gate, settings)
        health.loading_done()
        work = WorkReport(metrics, work_address, lambda: None)
    else:
        model = ModelHost(settings, run_directory(), health, metrics, workers=workers)
        model.start()
        add_routes_of_one(app, settings, Invocations(settings, model, gate, health, metrics), workers)
        work = WorkReport(metrics, work_address, lambda: model.drift)
    work.start()

    def drain() -> None:
        has_served = health.loaded
        health.drain()
        if has_served:
            time.sleep(LAME_DUCK_SECONDS)
            gate.close(timeout_seconds=LEAVE_SECONDS)
        if settings.multi_model:
            models.close()
        work.close()

    app.extensions["drain"] = drain
    app.extensions["health"] = health
    return app


def add_routes_of_one(app: Flask, settings: Settings, requests: Invocations, workers: int) -> None:
    """The paths of an endpoint with one model, which all of it serves."""

    @app.get("/execution-parameters")
    def parameters() -> Response:
        memory_bytes = available_memory_bytes()
        return jsonify(execution_parameters(settings, workers=workers, memory_bytes=memory_bytes))

    @app.post("/invocations")
    def invocations() -> Response:
        return requests.answer(this_request())

    if settings.predict_route:
        app.add_url_rule(settings.predict_route, view_func=invocations, methods=["POST"])


def hand_attributes_on(request: ServingRequest, answer: Response) -> None:
    """The client's attributes go back to it, before ours: SageMaker returns only what we set.

    Where both are too long, or theirs cannot be sent, ours alone: they say what the numbers mean.
    """
    theirs = request.headers.get(ATTRIBUTES_HEADER, "")
    if not theirs:
        return
    ours = answer.headers.get(ATTRIBUTES_HEADER, "")
    for text in (";".join(filter(None, [theirs, ours])), ours):
        if text and text == usable(text, MAX_HEADER):
            answer.headers[ATTRIBUTES_HEADER] = text
            return
