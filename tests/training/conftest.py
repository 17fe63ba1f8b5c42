"""A job on this machine: the tree that SageMaker lays out, in a folder of its own, and the real `train` run on it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "container" / "train"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def last_line(self):
        """The message of the last log line, behind its time, level and name."""
        return self.err.splitlines()[-1].split(" ", 3)[3]


class Job:
    def __init__(self, root):
        self.root = root / "opt" / "ml"
        self.models = root / "models"
        self.out = root / "out.log"
        self.err = root / "err.log"
        self.processes = []

    @property
    def failure_file(self):
        return self.root / "output" / "failure"

    @property
    def failure(self):
        return self.failure_file.read_text(encoding="utf-8")

    @property
    def model(self):
        return json.loads((self.root / "model" / "model.json").read_text())

    def config(self, name, value):
        """Write a file of input/config: JSON, or `value` as it is when it is text."""
        folder = self.root / "input" / "config"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))

    def hyperparameters(self, **values):
        self.config("hyperparameters.json", {name: str(value) for name, value in values.items()})

    def channel(self, name, *files):
        folder = self.root / "input" / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("data")
        return folder

    def package(self, training, name="mine"):
        """A model package whose training.py is `training`; returns what the environment needs to use it."""
        (self.models / name).mkdir(parents=True)
        (self.models / name / "__init__.py").touch()
        (self.models / name / "training.py").write_text(training)
        return {"MODEL_PACKAGE": name}

    def start(self, *words, within=(), **environ):
        """Start `train` as process of its own group, as a container would, its output in two files.

        `within`: a command that starts it in its turn.
        """
        defaults = {
            "SAGEMAKER_BASE_DIR": str(self.root),
            "MODEL_PACKAGE": "doubling",
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "tests" / "fakes", self.models))),
            "GPU_METRICS": "off",
            "PATH": os.environ["PATH"],
        }
        with self.out.open("w") as out, self.err.open("w") as err:
            process = subprocess.Popen(
                [*within, sys.executable, str(PROGRAM), *words],
                env=defaults | environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self, process, seconds=30):
        code = process.wait(seconds)
        return Ended(code, self.out.read_text(), self.err.read_text())

    def run(self, *words, **environ):
        return self.end(self.start(*words, **environ))

    def wait_for(self, text, seconds=20):
        """Wait until `text` stands in the job's output."""
        deadline = time.monotonic() + seconds
        while text not in self.out.read_text() + self.err.read_text():
            assert time.monotonic() < deadline, (
                f"{text!r} never came: {self.out.read_text()}{self.err.read_text()}"
            )
            time.sleep(0.02)


@pytest.fixture
def container_dir():
    return REPOSITORY / "container"


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    for process in job.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def is_alive(pid):
    """Whether a process still runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def ends():
    """Wait until a process is gone."""

    def wait(pid, seconds=5):
        deadline = time.monotonic() + seconds
        while is_alive(pid):
            assert time.monotonic() < deadline, f"process {pid} still runs"
            time.sleep(0.02)

    return wait
