"""`make` as a user types it, in this checkout."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path):
    """`make(*words)`: run make here, LOCAL_DIR a new folder; what it printed and its exit code."""

    def run(*words, folder=ROOT, deadline_seconds=60):
        return subprocess.run(
            ["make", f"LOCAL_DIR={tmp_path / 'local'}", *words],
            cwd=folder,
            env=outside_of_make(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_seconds,
        )

    return run


@pytest.fixture
def make_environment():
    return outside_of_make()


def outside_of_make():
    """The environment without what an outer `make test` put there."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "LOCAL_DIR", "PORT", "IMAGE_FILE")
    return {name: value for name, value in os.environ.items() if name not in inherited}


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
