"""Requests of many inputs: JSON lines (batch transform) and Vertex AI's instances, one answer for each.

A few are with the model at a time, so that they share batches, and neither a request of a gigabyte
nor its answer need lie in memory.
"""

import base64
import json
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import IO

from serving.client_socket import ClientSocket
from serving.errors import RequestError, error_body
from serving.inference import Inference, Pending
from serving.media_types import JSON, AnswerType, Offer, response_type


@dataclass(frozen=True)
class RecordWriter:
    """How an answer looks as a line of JSON."""

    inference: Inference
    answer: AnswerType
    """Of the model: its JSON is the line, other bytes are wrapped: {"content_type": ..., "b64": ...}."""
    ahead: int
    """How many inputs are decoded before the first of them is answered."""
    error_records: bool
    """Whether an input that cannot be decoded is answered by a line with the error, or fails them all."""
    client: ClientSocket | None = None
    """Who is sent each line as soon as there is one, and takes it while the next is waited for."""

    def lines(self, records: Iterable[bytes]) -> Generator[bytes]:
        """Each record's answer, in order. Raises RequestError naming the record that fails them all."""
        waiting: deque[tuple[int, Pending | RequestError]] = deque()
        try:
            for number, record in enumerate(records, start=1):
                waiting.append((number, self._submitted(number, record)))
                if len(waiting) > self.ahead:
                    yield self._line(*waiting.popleft())
            while waiting:
                yield self._line(*waiting.popleft())
        finally:
            for _, pending in waiting:
                if isinstance(pending, Pending):
                    pending.output.give_up()  # somebody else's record failed: spare the model the work

    def _submitted(self, number: int, record: bytes) -> Pending | RequestError:
        try:
            return self.inference.submit(record, JSON)
        except RequestError as error:
            if self.error_records:
                return error
            raise _of_record(number, error) from error

    def _line(self, number: int, pending: Pending | RequestError) -> bytes:
        if isinstance(pending, RequestError):
            return error_record(pending)
        if self.client is not None:
            self.client.send_until(partial(self.inference.has_result, pending))
        try:
            body = self.inference.encode(self.inference.result(pending), self.answer.full)
        except RequestError as error:
            raise _of_record(number, error) from error
        except OSError as error:
            if self.client is None:
                raise
            # As it is, it would look as if the client had left.
            raise RuntimeError(f"record {number} failed") from error
        if self.answer.content_type.partition(";")[0] != JSON:
            wrapped = {
                "content_type": self.answer.content_type,
                "b64": base64.b64encode(body).decode("ascii"),
            }
            return json.dumps(wrapped).encode()
        return body if b"\n" not in body else json.dumps(json.loads(body)).encode()


def record_type(offers: tuple[Offer, ...], default: AnswerType) -> AnswerType:
    """The model's type for an answer that must be JSON: its own JSON if it makes any, else its default."""
    return response_type(f"{JSON}, */*;q=0.1", offers, default)


def error_record(error: RequestError) -> bytes:
    """What stands in the place of an answer that cannot be given."""
    return error_body(error.name, error.description or "", status=error.code)


def instances_of(body: bytes) -> tuple[list[bytes], str] | None:
    """What a body for Vertex AI's predict holds: the instances, and the Accept in its parameters.

    None when it is something else. Raises RequestError 400.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        return None
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, dict) or not isinstance(accept := parameters.get("accept", ""), str):
        raise RequestError(400, 'parameters must be like {"accept": "application/json"}')
    return [json.dumps(instance).encode() for instance in value["instances"]], accept


def write_lines(lines: Iterable[bytes], file: IO[bytes]) -> int:
    """Write them to `file`, with none after the last, and go back to its start; the number of bytes."""
    for number, line in enumerate(lines):
        file.write(b"\n" + line if number else line)
    length = file.tell()
    file.seek(0)
    return length


def _of_record(number: int, error: RequestError) -> RequestError:
    return RequestError(error.code or 500, f"record {number}: {error.description}", **error.details)
