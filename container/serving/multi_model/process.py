"""One model of a multi-model endpoint: a server of its own, `serve` on a socket, started, asked and ended from here.

A process gives back all of its memory when it ends, the GPU's too; a library that unloads a model does not.
"""

import contextlib
import http.client
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from serving.settings import model_environment

SERVE = Path(__file__).resolve().parents[2] / "serve"
POLL_SECONDS = 0.02
REAP_SECONDS = 10.0
"""For a killed process to be gone, and its memory with it."""
KILLED = "was sent SIGKILL!"
"""What Gunicorn says of a worker."""

_log = logging.getLogger(__name__)


class LoadFailed(Exception):
    """A model's server ended, or did not become ready; the text says why."""


class Connection(http.client.HTTPConnection):
    """HTTP over a socket of the file system."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Called by the first request."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ModelProcess:
    """The server of the model in `model_dir`, whose files are in `folder`; `gpu`: the only one that it sees."""

    def __init__(self, folder: Path, model_dir: Path, gpu: str | None) -> None:
        self.gpu = gpu
        self._folder = folder
        self._socket = folder / "socket"
        self._last_line = ""
        self.killed = threading.Event()
        """One of its processes was sent SIGKILL, as the kernel does where memory runs out."""
        folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            [sys.executable, str(SERVE), "serve"],
            env=model_environment(folder, self._socket, model_dir, gpu),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # it and its workers can then be ended together
        )
        (folder / "pid").write_text(str(self._process.pid))
        self._log_thread = threading.Thread(target=self._hand_log_on, name="model log", daemon=True)
        self._log_thread.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; a server ends by itself when it cannot load its model, or its workers keep dying."""
        return self._process.poll()

    def memory_bytes(self) -> int:
        """Of all its processes; what they share with others is divided among those."""
        total, pid = 0, self._process.pid
        with contextlib.suppress(OSError):  # it ends meanwhile
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for one in (str(pid), *children):
                lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Return when it answers /ping with 200. Raises LoadFailed."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            if self.killed.is_set() or self.exit_code == -signal.SIGKILL:
                raise LoadFailed("its process was killed: out of memory, most likely")
            if self.exit_code is not None:
                self._log_thread.join(REAP_SECONDS)
                raise LoadFailed(self._last_line.partition(": ")[2] or f"exit code {self.exit_code}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _, _ = self.ask("GET", "/ping", timeout_seconds=REAP_SECONDS)
                if status == 200:
                    return
            time.sleep(POLL_SECONDS)
        raise LoadFailed(f"not ready within {timeout_seconds:.0f} s")

    def ask(
        self,
        method: str,
        path: str,
        body: IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_seconds: float,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of its answer. Raises OSError (TimeoutError, for one) or HTTPException."""
        with contextlib.closing(Connection(self._socket, timeout_seconds)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def end(self) -> None:
        """Kill it: nobody waits for it any more. Its memory is free when this returns."""
        _kill(self._process.pid)
        try:
            self._process.wait(REAP_SECONDS)
        except subprocess.TimeoutExpired:  # inside a driver that hangs
            _log.error("the server %d does not end", self._process.pid)
        self._log_thread.join(REAP_SECONDS)  # the pipe is closed when the last of its workers is gone
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hand_log_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last_line = line.rstrip("\n")
            if KILLED in line:
                self.killed.set()
            sys.stderr.write(line)


def end_leftovers(folder: Path) -> None:
    """Kill the servers that keep their files in folders of `folder`: theirs was killed before it could."""
    for path in folder.glob("*/pid"):
        _kill(int(path.read_text()))


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
