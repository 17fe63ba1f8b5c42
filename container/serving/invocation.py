"""A POST to /invocations, from its headers to its answer.

    headers -> gate -> body -> decode -> queue, batch, predict -> encode

Only the part between the commas runs in the model's thread; the rest in the request's own.
"""

from contextlib import ExitStack
from itertools import chain, islice
from typing import IO

from flask import Response
from werkzeug.wsgi import FileWrapper

from serving.client_socket import ClientSocket
from serving.errors import RequestError
from serving.gate import Gate
from serving.health import Health
from serving.inference import Inference
from serving.media_types import JSON, JSON_LINES, AnswerType, Offer, declared_type, response_type
from serving.model_host import LoadedModel, ModelHost
from serving.records import RecordWriter, error_record, instances_of, record_type, write_lines
from serving.request import ServingRequest
from serving.request_body import PIECE_BYTES, full_disk_refused, read_body, spool
from serving.request_metrics import RequestMetrics
from serving.settings import Settings

ATTRIBUTES_HEADER = "X-Amzn-SageMaker-Custom-Attributes"
"""The one header of an answer, besides its type, that SageMaker hands on to the client."""
API_HEADER, STREAM_API = "X-Amzn-SageMaker-Forwarded-Api", "InvokeEndpointWithResponseStream"
"""What the client called: it then has each chunk of the answer when it comes."""
LINES = Offer.parse(JSON_LINES)
"""What can be asked for besides the model's own types when the request is lines."""


class Invocations:
    """What answers the requests of a worker."""

    def __init__(
        self, settings: Settings, model: ModelHost, gate: Gate, health: Health, metrics: RequestMetrics
    ) -> None:
        self._settings = settings
        self._model = model
        self._gate = gate
        self._health = health
        self._metrics = metrics

    def answer(self, request: ServingRequest) -> Response:
        """The answer, with the model's choices (axes, for example) in ATTRIBUTES_HEADER. Raises RequestError."""
        model = self._model.loaded
        if model is None:
            raise RequestError(503, "the model is still loading")
        declared = declared_type(request.mimetype, model.request_types)
        accept = request.headers.get("Accept", "")
        if declared == JSON_LINES:
            answer = response_type(accept, (LINES, *model.offers), LINES.usual())
            if answer == LINES.usual():
                answer = record_type(model.offers, model.default)
        else:
            answer = response_type(accept, model.offers, model.default)
        inference = Inference(
            model.predictor,
            self._model.batcher,
            self._health,
            self._metrics,
            arrived=request.arrived,
            timeout_seconds=self._settings.request_timeout_seconds,
            drift=self._model.drift,
        )
        with ExitStack() as held:
            held.enter_context(self._gate.hold())
            held.enter_context(full_disk_refused())
            body = held.enter_context(spool(request.content_length))
            read_body(request, body, limit_bytes=self._settings.max_body_bytes)
            if declared == JSON_LINES and request.headers.get(API_HEADER) == STREAM_API:
                return self._stream(inference, answer, body, held, request.client)
            if declared == JSON_LINES:
                return self._each_line(inference, answer, body)
            if self._settings.predict_route and declared == JSON:
                if found := instances_of(body.read()):
                    return self._each_instance(inference, model, *found)
                body.seek(0)
            return self._one(inference, answer, body, declared, request.client)

    def _one(
        self,
        inference: Inference,
        answer: AnswerType,
        body: IO[bytes],
        declared: str | None,
        client: ClientSocket,
    ) -> Response:
        """The answer to a picture. While it waits for the model, a client that leaves takes it out of the queue."""
        try:
            pending = inference.submit(body.read(), declared)
            client.when_gone = pending.output.give_up
        except RequestError as error:
            if not self._settings.error_records:
                raise
            return Response(error_record(error), content_type=JSON)
        body.close()  # it need not lie in memory while the request waits
        try:
            output = inference.result(pending)
        finally:
            client.when_gone = None
        encoded = inference.encode(output, answer.full)
        return _stated(Response(encoded, content_type=answer.content_type), answer)

    def _each_line(self, inference: Inference, answer: AnswerType, body: IO[bytes]) -> Response:
        """One line out for each line in, none after the last: batch transform joins them to its input."""
        results = spool()
        try:
            lines = self._writer(inference, answer).lines(body)
            length = write_lines(lines, results)
        except BaseException:
            results.close()
            raise
        response = Response(
            FileWrapper(results, PIECE_BYTES), content_type=JSON_LINES, direct_passthrough=True
        )
        response.content_length = length
        return _stated(response, answer)

    def _stream(
        self,
        inference: Inference,
        answer: AnswerType,
        body: IO[bytes],
        held: ExitStack,
        client: ClientSocket,
    ) -> Response:
        """Each line's answer as soon as there is one. After the first, a failure can only break the answer off."""
        lines = self._writer(inference, answer, client).lines(body)
        first = list(islice(lines, 1))
        response = Response(chain(first, (b"\n" + line for line in lines)), content_type=JSON_LINES)
        response.call_on_close(lines.close)
        response.call_on_close(held.pop_all().close)
        return _stated(response, answer)

    def _each_instance(
        self, inference: Inference, model: LoadedModel, instances: list[bytes], accept: str
    ) -> Response:
        """Vertex AI's {"predictions": [...]}."""
        answer = record_type(model.offers, model.default)
        if accept:
            answer = response_type(accept, model.offers, model.default)
        predictions = b", ".join(self._writer(inference, answer).lines(instances))
        return _stated(Response(b'{"predictions": [' + predictions + b"]}", content_type=JSON), answer)

    def _writer(
        self, inference: Inference, answer: AnswerType, client: ClientSocket | None = None
    ) -> RecordWriter:
        return RecordWriter(inference, answer, self._settings.max_batch, self._settings.error_records, client)


def _stated(response: Response, answer: AnswerType) -> Response:
    if answer.chosen:
        response.headers[ATTRIBUTES_HEADER] = answer.chosen
    return response
