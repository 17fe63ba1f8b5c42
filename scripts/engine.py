"""The Docker engine that the user's client talks to, for the scripts that ask it about images."""

import os
import shlex
import subprocess

import docker
from docker.errors import DockerException

TIMEOUT_SECONDS = 600
"""A registry is silent while it puts a layer of gigabytes together."""


class NoEngine(Exception):
    """No engine can be asked; the text says why and what to do."""


def connect(client: str) -> docker.DockerClient:
    """The engine of `client`, a command like `docker`: only the client knows its contexts. Raises NoEngine."""
    command = [*shlex.split(client), "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise NoEngine(f"no program {command[0]!r}: install Docker, or name it with --docker") from None
    except subprocess.CalledProcessError as error:
        raise NoEngine(f"`{shlex.join(command)}` says: {error.stderr.strip()}") from None
    host = answer.stdout.strip()
    try:
        engine = docker.from_env(environment={**os.environ, "DOCKER_HOST": host}, timeout=TIMEOUT_SECONDS)
        engine.ping()
    except DockerException as error:
        raise NoEngine(
            f"no Docker engine answers at {host}: is it started, may you use it? ({error})"
        ) from None
    return engine
