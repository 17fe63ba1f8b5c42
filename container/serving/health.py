"""What /ping answers: loading, ready, failing or draining, over all workers of the server.

SageMaker sends requests to every worker once one of them answered 200, and replaces an instance
whose /ping fails. So the server is ready when all of its workers are, and fails when one's GPU does.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_DEVICE = re.compile(
    "cuda (error|failure|driver)|cudnn|cublas|cufft|nccl|nvidia driver|device-side assert", re.I
)
"""What torch and ONNX Runtime say when it is the device that failed, and not what they were given."""
_FOR_GOOD = re.compile("cuda (error|failure)|device-side assert", re.I)
"""Of these: after such an error every later call of this process fails too."""
CPU_HANG_SECONDS = 600.0
"""A GPU that does not answer hangs; a CPU may only be slow, with a huge picture, and nobody would be quicker."""


class Health:
    """This worker's state; whether it is ready lies as a file in `run_directory`, for the others.

    `gpu`: the one that it uses, None for the CPU. `model`: what it serves, None for many.
    """

    def __init__(
        self,
        run_directory: Path,
        *,
        pid: int,
        workers: int,
        max_failures: int,
        model: str | None,
        gpu: str | None,
    ) -> None:
        self._run_directory = run_directory
        self._pid = pid
        self._workers = workers
        self._max_failures = max_failures
        self._has_gpu = gpu is not None
        self._serves = {"device": "cpu" if gpu is None else f"cuda {gpu}"} | (
            {"model": model} if model else {}
        )
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._failures = 0
        self._reason: str | None = None
        self._broken = False
        self.loaded = False
        self.draining = False
        self.when_loaded: Callable[[], None] = lambda: None
        """Called then, before the others know: who comes when all are ready is to find this worker accepting."""

    def loading_done(self) -> None:
        """The model is on its device and warm."""
        with self._lock:
            self.loaded = True
            self.when_loaded()
            self._share()

    def drain(self) -> None:
        """SIGTERM has come."""
        self.draining = True

    def prediction_succeeded(self) -> None:
        """The model works, or works again."""
        with self._lock:
            self._failures = 0
            if self._reason is not None and not self._broken:
                self._reason = None
                self._share()

    def prediction_failed(self, error: BaseException) -> None:
        """Count a failure of the device: those of the model's code come with certain pictures, and go with them."""
        if not _DEVICE.search(str(error)):
            return
        with self._lock:
            self._failures += 1
            self._broken = self._broken or _FOR_GOOD.search(str(error)) is not None
            if self._broken or self._failures >= self._max_failures:
                self._reason = (
                    f"{self._failures} predictions in a row failed: {type(error).__name__}: {error}"
                )
                self._share()

    def prediction_hangs(self, seconds: float) -> None:
        """One prediction has run for longer than any request may: nothing can be expected of a GPU that does so."""
        if not self._has_gpu and seconds < CPU_HANG_SECONDS:
            return
        with self._lock:
            self._reason = f"a prediction has been running for {seconds:.0f} s"
            self._share()

    def _share(self) -> None:
        file = _ready_file(self._run_directory, self._pid)
        if self._reason is None:
            file.touch()
        else:
            file.unlink(missing_ok=True)

    def may_accept(self) -> bool:
        """Whether new clients are for this worker: while its model loads, only where no other could answer them."""
        return self.loaded or not any(self._run_directory.glob("*.ready"))

    def report(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the server is healthy, and the JSON that says so."""
        if self.draining:
            state, reason = "draining", None
        elif not self.loaded:
            state, reason = "loading", None
        elif self._reason is not None:
            state, reason = "failing", self._reason[:500]
        elif (ready := len(list(self._run_directory.glob("*.ready")))) < self._workers:
            state, reason = "waiting", f"{ready} of {self._workers} workers are ready"
        else:
            state, reason = "ready", None
        body = {"state": state, "uptime_seconds": round(time.monotonic() - self._started, 1), **self._serves}
        return state == "ready", body | ({} if reason is None else {"reason": reason})


def forget_worker(run_directory: Path, pid: int) -> None:
    """A worker is dead, and so not ready. Called by the master."""
    _ready_file(run_directory, pid).unlink(missing_ok=True)


def _ready_file(run_directory: Path, pid: int) -> Path:
    return run_directory / f"{pid}.ready"
