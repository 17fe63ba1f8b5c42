"""What all verbs of `launch.py` share first: calls to AWS as plain data, and who makes them.

A verb first writes down every call it is going to make; the calls are held against AWS's own
limits (limits.py), and only then printed (`--dry-run`) or made.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError, NoRegionError
from botocore.loaders import Loader, create_loader

ROOT = Path(__file__).resolve().parents[2]
MAX_CONNECTIONS = 64


class LaunchError(Exception):
    """The verb ends here; the text says what is wrong and what to do."""


@dataclass(frozen=True)
class Call:
    """One call of a boto3 client."""

    client: str
    method: str
    arguments: dict[str, Any]


@cache
def descriptions() -> Loader:
    """The services' own descriptions, tens of megabytes of JSON: read once for the limits and for the clients."""
    return create_loader()


class Aws:
    """Makes calls, with one client for each service."""

    def __init__(self, region: str | None):
        self._given_region = region
        self._clients: dict[str, BaseClient] = {}

    @cached_property
    def _session(self) -> boto3.session.Session:
        core = botocore.session.get_session()
        core.register_component("data_loader", descriptions())
        return boto3.session.Session(region_name=self._given_region, botocore_session=core)

    @property
    def known_region(self) -> str | None:
        """The one given, else AWS_DEFAULT_REGION's or the profile's, if there is one."""
        return self._given_region or self._session.region_name

    @property
    def region(self) -> str:
        """The same. Raises NoRegionError where there is none."""
        if not self.known_region:
            raise NoRegionError
        return self.known_region

    def client(self, name: str) -> BaseClient:
        if name not in self._clients:
            # An endpoint may take 60 s to answer.
            config = Config(
                connect_timeout=10,
                read_timeout=70,
                retries={"mode": "standard"},
                max_pool_connections=MAX_CONNECTIONS,
            )
            self._clients[name] = self._session.client(name, config=config)
        return self._clients[name]

    def __call__(self, call: Call) -> Any:
        return getattr(self.client(call.client), call.method)(**call.arguments)

    def pages(self, call: Call, member: str) -> list[Any]:
        """Everything that a listing has under `member`, of all its pages."""
        pages = self.client(call.client).get_paginator(call.method).paginate(**call.arguments)
        return [item for page in pages for item in page.get(member, ())]

    def found(self, call: Call) -> Any | None:
        """The answer, or None where AWS says that there is no such thing."""
        try:
            return self(call)
        except ClientError as error:
            if is_missing(error):
                return None
            raise


def is_missing(error: ClientError) -> bool:
    """Whether AWS says that what was asked for is not there; SageMaker has several ways to say so."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "").lower()
    if code.startswith(("ResourceNotFound", "ObjectNotFound")) or code in ("NoSuchKey", "404"):
        return True
    return code == "ValidationException" and any(
        words in message for words in ("could not find", "not found", "does not exist", "cannot find")
    )


def read_image(role: str, given: str | None) -> str:
    """`given`, else the image that `make push` put there last. `role`: train or serve."""
    return given or read_digest(role)[0]


def read_digest(role: str) -> tuple[str, str]:
    """The image that `make push` put there last, and its flavour: cpu, cu128, ..."""
    path = ROOT / f"{role}.digest"
    try:
        reference, flavor = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise LaunchError(
            f"no file {path.name}: run `make push` first, or name the image with --image"
        ) from None
    except ValueError:
        raise LaunchError(f"{path.name} is not of this version: run `make push` again") from None
    return reference, flavor


def default_name(project: str) -> str:
    """One that no other job or endpoint of the account has: the project and the time in UTC."""
    return f"{project}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def print_calls(calls: Sequence[Call]) -> None:
    """What `--dry-run` shows: a JSON list; a request's body only by its length."""
    print(json.dumps([asdict(call) for call in calls], indent=2, default=lambda body: f"<{len(body)} bytes>"))
