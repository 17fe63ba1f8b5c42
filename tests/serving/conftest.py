"""Real servers: `container/serve` as a process, on a free port, with the doubling model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "container" / "serve"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(**settings):
    """What a bare container has, the doubling model, and `settings`."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "tests" / "fakes"),
        "MODEL_PACKAGE": "doubling",
        "GPU_METRICS": "off",
        **{name: str(value) for name, value in settings.items()},
    }


class Server:
    """A running `serve`. `model` is what model.json holds; None: `base` is as the test made it."""

    def __init__(self, base, model, **settings):
        self.base = base
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        if model is not None:
            (base / "model").mkdir()
            (base / "model" / "model.json").write_text(json.dumps(model))
        (base / "tmp").mkdir()
        self._log = base / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, SERVE, "serve"],
                env=environment(
                    SAGEMAKER_BASE_DIR=base,
                    SAGEMAKER_BIND_TO_PORT=self.port,
                    TMPDIR=base / "tmp",
                    HOME="/nonexistent",
                    **settings,
                ),
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self):
        return self._log.read_text()

    def children(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ping(self):
        """Status and body, or None while nobody listens."""
        try:
            answer = requests.get(f"{self.url}/ping", timeout=5)
        except requests.ConnectionError:
            return None
        return answer.status_code, answer.json()

    def wait_for(self, state, seconds=60):
        """The first /ping in `state`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = self.ping()
            if answer is not None and answer[1]["state"] == state:
                return answer
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"not {state} within {seconds} s, but {answer}:\n{self.log}")

    def invoke(self, value, **kwargs):
        return requests.post(f"{self.url}/invocations", json=value, timeout=60, **kwargs)

    def post(self, body, headers=None, **kwargs):
        return requests.post(
            f"{self.url}/invocations", data=body, headers=headers or {}, timeout=60, **kwargs
        )

    def metrics(self):
        """Each series of /metrics with its value."""
        lines = requests.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {series: float(value) for series, value in pairs}

    def wait_for_metric(self, series, value, seconds=10):
        end = time.monotonic() + seconds
        while self.metrics().get(series) != value:
            assert time.monotonic() < end, f"{series} is {self.metrics().get(series)}, not {value}"
            time.sleep(0.02)

    def exit_code(self, seconds=30):
        return self.process.wait(seconds)

    def kill(self):
        """End it at once, whatever it does."""
        if self.process.poll() is None:
            children = self.children()
            self.process.kill()  # first, or it would replace its workers
            for child in children:
                os.kill(child, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def start_server(tmp_path_factory):
    """Start servers: `start_server(**settings)` one that is ready, `model=`, `ready=False` one that may not be."""
    servers = []

    def start(*, base=None, model="default", ready=True, **settings):
        base = base or tmp_path_factory.mktemp("server")
        server = Server(base, {"factor": 2} if model == "default" else model, **settings)
        servers.append(server)
        if ready:
            server.wait_for("ready")
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def run_serve():
    """`serve` with these words and settings, to its end."""

    def run(*words, **settings):
        return subprocess.run(
            [sys.executable, SERVE, *words],
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def shared_server(start_server):
    """For tests that leave it as it was."""
    return start_server(MAX_CONSECUTIVE_FAILURES=1000)


@pytest.fixture(scope="module")
def csv_server(start_server):
    """Answers in CSV unless asked, and takes bodies up to 1 MiB."""
    return start_server(SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv", MAX_BODY_MB=1)
