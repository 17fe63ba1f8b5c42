"""What all verbs of `launch.py` share: calls to AWS as plain data, their limits, and the wait for an end.

A verb first writes down every call it is going to make; the calls are held against AWS's own
limits, and only then printed (`--dry-run`) or made.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore import xform_name
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ConnectionError as NoConnection
from botocore.exceptions import HTTPClientError, ParamValidationError
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import validate_parameters

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT_SECONDS = 120


class LaunchError(Exception):
    """The verb ends here; the text says what is wrong and what to do."""


@dataclass(frozen=True)
class Call:
    """One call of a boto3 client."""

    client: str
    method: str
    arguments: dict[str, Any]


class Aws:
    """Makes calls, with one client for each service."""

    def __init__(self, region: str | None):
        self._region = region
        self._clients: dict[str, BaseClient] = {}

    def client(self, name: str) -> BaseClient:
        if name not in self._clients:
            # An endpoint may take 60 s to answer.
            config = Config(connect_timeout=10, read_timeout=70, retries={"mode": "standard"})
            self._clients[name] = boto3.client(name, region_name=self._region, config=config)
        return self._clients[name]

    def __call__(self, call: Call) -> Any:
        return getattr(self.client(call.client), call.method)(**call.arguments)


def read_image(role: str, given: str | None) -> str:
    """`given`, else the image that `make push` put there last."""
    path = ROOT / f"{role}.digest"
    if given:
        return given
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise LaunchError(
            f"no file {path.name}: run `make push` first, or name the image with --image"
        ) from None


def default_name(project: str) -> str:
    """One that no other job or endpoint of the account has: the project and the time in UTC."""
    return f"{project}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def print_calls(calls: Sequence[Call]) -> None:
    """What `--dry-run` shows: a JSON list; a request's body only by its length."""
    print(json.dumps([asdict(call) for call in calls], indent=2, default=lambda body: f"<{len(body)} bytes>"))


def check_limits(calls: Sequence[Call]) -> None:
    """Hold the arguments against the service's description that boto3 carries.

    boto3 itself checks names, types and minimums, but sends what is too long, too many or misnamed,
    and a job refused by AWS may by then have a model and a configuration. Raises LaunchError.
    """
    for call in calls:
        operation = _operation(call.client, call.method)
        if operation is None:  # upload_file is boto3's own, made of several operations
            continue
        try:
            validate_parameters(call.arguments, operation.input_shape)
        except ParamValidationError as error:
            raise LaunchError(f"{operation.name}: {' '.join(str(error).split())}") from None
        for fault in _faults(call.arguments, operation.input_shape, ""):
            raise LaunchError(f"{operation.name}: {fault}")


@cache
def _service(client: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(client)


def _operation(client: str, method: str) -> OperationModel | None:
    service = _service(client)
    names = {xform_name(name): name for name in service.operation_names}
    return service.operation_model(names[method]) if method in names else None


def _faults(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """What in `value` breaks the maximums and patterns of `shape`, in words."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _faults(member, shape.members[name], f"{where}.{name}".lstrip("."))
        return
    if shape.type_name == "blob":  # boto3's figure for a request's body is older than AWS's limit
        return
    maximum = shape.metadata.get("max")
    size = value if isinstance(value, int) else len(value)
    if maximum is not None and size > maximum:
        unit = {"string": " characters", "list": " entries", "map": " entries"}.get(shape.type_name, "")
        yield (
            f"{where} has {size}{unit}, the limit is {maximum}"
            if unit
            else f"{where} is {size}, above {maximum}"
        )
    if shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _faults(item, shape.member, f"{where}[{index}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _faults(key, shape.key, f"{where} name {key!r}")
            yield from _faults(item, shape.value, f"{where}[{key!r}]")
    elif shape.type_name == "string" and not _matches(shape.metadata.get("pattern"), value):
        yield f"{where}: {value!r} is not of the form {shape.metadata['pattern']}"


def _matches(pattern: str | None, text: str) -> bool:
    try:
        return pattern is None or re.fullmatch(pattern, text) is not None
    except re.error:  # a few patterns use classes that Python's dialect has not
        return True


def say(text: str) -> None:
    """One line of live status, with the time in UTC."""
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)


def wait(look: Callable[[], tuple[list[str], bool]], poll_seconds: float) -> None:
    """Call `look` until it says that the end is reached; print what is new, and now and then that nothing is.

    `look` returns the story so far, one line each, and whether it is over. boto3's own waiters give
    up after 6 h (training) or 1 h (endpoints), though the job goes on.
    """
    told: list[str] = []
    since = said = time.monotonic()
    while True:
        try:
            story, is_over = look()
        except (NoConnection, HTTPClientError) as error:
            say(f"AWS does not answer, trying again: {error}")
            story, is_over = told, False
        now = time.monotonic()
        for index, line in enumerate(story):
            if told[index : index + 1] != [line]:
                say(line)
                since = said = now
        told = story
        if is_over:
            return
        if now - said > HEARTBEAT_SECONDS:
            say(f"{story[-1] if story else 'nothing heard yet'} ({(now - since) / 60:.0f} min)")
            said = now
        time.sleep(poll_seconds)
