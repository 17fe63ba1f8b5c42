"""The metrics agent as a real process on the real nvidia-ml-py, above the fake driver library."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import emf_validator

CONTAINER = Path(__file__).resolve().parents[2] / "container"
IDENTITY = ["--dimension=Project=normals", "--dimension=JobName=job=1", "--dimension=Host=algo-1"]


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Return when `true()` is; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether no such process runs; one that only waits to be reaped does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


class Agent:
    """`python -m metrics.agent` with its two streams in files; `out`: a descriptor to write to instead."""

    def __init__(
        self,
        folder: Path,
        driver: Path,
        arguments: Sequence[str],
        pythonpath: Sequence[Path] = (),
        out: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as file, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "metrics.agent", "--phase=training", *IDENTITY, *arguments],
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": str(driver),
                    **(environ or {}),
                    "PYTHONPATH": os.pathsep.join(map(str, [*pythonpath, CONTAINER])),
                },
                stdout=file if out is None else out,
                stderr=err,
            )

    def lines(self) -> list[bytes]:
        return self.out.read_bytes().splitlines(keepends=True)

    def data(self) -> list[emf_validator.Datum]:
        return [datum for line in self.lines() for datum in emf_validator.read(line)]

    def values(self, name: str, gpu: int) -> list[float]:
        """All values of one metric and GPU, under the host's dimensions."""
        found = [datum for datum in self.data() if (datum.name, datum.gpu) == (name, gpu)]
        return [value for datum in found if "Host" in datum.dimensions for value in datum.values]

    def messages(self) -> list[str]:
        return self.err.read_text().splitlines()

    def finish(self, number: int = signal.SIGTERM, seconds: float = 5.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)
