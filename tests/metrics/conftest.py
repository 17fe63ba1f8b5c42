"""Fixtures of the metrics tests: a fake driver library, and agents on it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import nvml
from running_agent import Agent


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The folder of a fake driver library with one GPU; `nvml.turn` changes it."""
    return nvml.build(tmp_path / "driver")


@pytest.fixture
def start(tmp_path: Path, driver: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents: 20 samples and 2 lines a second unless the arguments say otherwise."""
    agents: list[Agent] = []

    def start_one(*arguments: str, pythonpath: Sequence[Path] = (), out: int | None = None) -> Agent:
        fast = ["--interval-seconds=0.05", "--publish-seconds=0.5"]
        agents.append(Agent(tmp_path, driver, [*fast, *arguments], pythonpath, out))
        return agents[-1]

    yield start_one
    for agent in agents:
        agent.process.kill()
        agent.process.wait()
