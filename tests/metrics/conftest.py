"""Fixtures of the metrics tests: a fake driver library, and agents on it."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

import nvml
from running_agent import Agent, wait_until

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The folder of a fake driver library with one GPU; `nvml.turn` changes it."""
    return nvml.build(tmp_path / "driver")


@pytest.fixture
def start(tmp_path: Path, driver: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents: 20 samples and 2 lines a second unless the arguments say otherwise."""
    agents: list[Agent] = []

    def start_one(
        *arguments: str,
        pythonpath: Sequence[Path] = (),
        out: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Agent:
        fast = ["--interval-seconds=0.05", "--publish-seconds=0.5"]
        agents.append(Agent(tmp_path, driver, [*fast, *arguments], pythonpath, out, environ))
        return agents[-1]

    yield start_one
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def aws_environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Variables for whoever shall talk to a stand-in of AWS; also set for this process."""

    def make(url: str, **changes: str | None) -> dict[str, str]:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": url, **changes}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        return {name: value for name, value in {**KEYS, "AWS_ENDPOINT_URL": url, **changes}.items() if value}

    return make


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def cloudwatch(moto_url: str) -> Any:
    """A client of an empty CloudWatch."""
    requests.post(f"{moto_url}/moto-api/reset", timeout=30)
    return boto3.client(
        "cloudwatch",
        endpoint_url=moto_url,
        region_name="eu-west-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
