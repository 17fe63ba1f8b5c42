"""One request's use of the model: decode, queue, wait for the batch, encode, with figures and refusals.

`decode` and `encode` run in the request's own thread, so that one bad picture spoils nobody's batch.
"""

import base64
import binascii
import concurrent.futures
import json
import time
from typing import Any, NamedTuple

from model_api import Predictor
from serving.batching import Batcher, Output, is_out_of_memory
from serving.drift import DriftWatch
from serving.errors import RequestError
from serving.health import Health
from serving.media_types import JSON, carried_type
from serving.request_metrics import RequestMetrics

GONE = "the client went away while its request waited"
HANGS = 1.5
"""A prediction that runs so many times longer than any request may is not slow but stuck."""


class Pending(NamedTuple):
    """A decoded input, and where its output will be."""

    input: Any
    output: Output


class Inference:
    """What a request may ask of a loaded model, until `timeout_seconds` after `arrived` (monotonic)."""

    def __init__(
        self,
        predictor: Predictor,
        batcher: Batcher,
        health: Health,
        metrics: RequestMetrics,
        *,
        arrived: float,
        timeout_seconds: int,
        drift: DriftWatch | None = None,
    ) -> None:
        self._predictor = predictor
        self._batcher = batcher
        self._health = health
        self._metrics = metrics
        self._drift = drift
        self._timeout_seconds = timeout_seconds
        self._end = arrived + timeout_seconds

    def submit(self, body: bytes, declared: str | None) -> Pending:
        """Decode `body` and queue what it is. Raises RequestError 4xx when the bytes are wrong.

        `declared`: its media type, None where nobody knows. JSON that the model does not take itself is
        a wrapping: `{"b64": "..."}` holds the bytes.
        """
        if declared == JSON and JSON not in self._predictor.request_types:
            body, declared = _unwrapped(body), None
        media_type = carried_type(declared, body, self._predictor.request_types)
        try:
            with self._metrics.decode.time():
                value = self._predictor.decode(body, media_type)
        except ValueError as error:
            status = getattr(error, "status", 400)
            raise RequestError(status if 400 <= status < 500 else 400, str(error)) from error
        try:
            return Pending(value, self._batcher.submit(value))
        except MemoryError:
            raise RequestError(
                413, "predicting this input takes more memory than this host has: send a smaller one"
            ) from None

    def result(self, pending: Pending) -> Any:
        """What the model made of it. Raises RequestError 499, 504 or 507, or what the model raised."""
        output = pending.output
        left = max(0.0, self._end - time.monotonic())
        try:
            error = output.exception(timeout=left)
        except concurrent.futures.TimeoutError:
            output.give_up()
            if self._batcher.running_seconds > HANGS * self._timeout_seconds:
                self._health.prediction_hangs(self._batcher.running_seconds)
            raise RequestError(
                504, f"no answer within {self._timeout_seconds} s (REQUEST_TIMEOUT_SECONDS)"
            ) from None
        except concurrent.futures.CancelledError:
            raise RequestError(499, GONE) from None
        if error is not None:
            if output.unwanted:
                raise RequestError(499, GONE) from error
            if is_out_of_memory(error):
                raise RequestError(507, "not enough memory for this input") from error  # the model is well
            self._health.prediction_failed(error)
            raise error
        self._health.prediction_succeeded()
        if self._drift is not None:
            self._drift.look(pending.input, output.result())
        return output.result()

    def has_result(self, pending: Pending) -> bool:
        """Whether `result` would not wait."""
        return pending.output.done() or time.monotonic() >= self._end

    def encode(self, output: Any, media_type: str) -> bytes:
        """An output of the model as the bytes of an answer; `media_type` has all choices spelt out."""
        with self._metrics.encode.time():
            return self._predictor.encode(output, media_type)


def _unwrapped(body: bytes) -> bytes:
    try:
        return base64.b64decode(json.loads(body)["b64"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise RequestError(400, 'the JSON is not {"b64": "..."} with a picture\'s bytes in base64') from error
