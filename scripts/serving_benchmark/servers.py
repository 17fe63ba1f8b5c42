"""The servers that are compared, each as the processes that people would run; all but one are stopped meanwhile."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from serving_benchmark.load import exchange, get, post
from serving_benchmark.workload import REQUEST_TYPE

HERE = Path(__file__).resolve().parent
CONTAINER = HERE.parents[1] / "container"
START_SECONDS = 120


@dataclass(frozen=True)
class Kind:
    """How a server is started and spoken to."""

    name: str
    command: tuple[str, ...]
    """`{port}` stands for the port."""
    environment: dict[str, str]
    ping_path: str = "/ping"
    predict_path: str = "/invocations"


def ours(name: str, model_dir: Path, *, package: str = "surface_normals", **settings: str) -> Kind:
    """container/serve as it comes, with these settings."""
    environment = {"MODEL_DIR": str(model_dir), "MODEL_PACKAGE": package, "GPU_METRICS": "off", **settings}
    if package == "null_model":
        environment["PYTHONPATH"] = str(HERE)
    return Kind(name, (sys.executable, str(CONTAINER / "serve"), "serve"), environment)


def litserve(name: str, python: Path, model_dir: Path, **settings: str) -> Kind:
    """LitServe around the same model code, in the Python that has it."""
    command = (str(python), str(HERE / "litserve_server.py"), "{port}")
    environment = {"MODEL_DIR": str(model_dir), "PYTHONPATH": str(CONTAINER), **settings}
    return Kind(name, command, environment, "/health", "/predict")


def plain_flask() -> Kind:
    """What one would write without this project, of no model: the least that Flask and Gunicorn cost."""
    command = "-m gunicorn --chdir {here} --bind 127.0.0.1:{{port}} --threads 8 plain_flask:app"
    words = command.format(here=HERE).split()
    return Kind("plain Flask", (sys.executable, *words), {})


class Server:
    """A running one. `first_200_seconds`, `first_answer_seconds`: from its start."""

    def __init__(self, kind: Kind, body: bytes, folder: Path) -> None:
        self.kind = kind
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address: tuple[str, int] = listener.getsockname()
        port = str(self.address[1])
        self.request = post(kind.predict_path, body, REQUEST_TYPE, f"127.0.0.1:{port}")
        self.ping = get(kind.ping_path, f"127.0.0.1:{port}")
        self.log = folder / f"{kind.name.replace(' ', '-')}.log"
        started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [word.format(port=port) for word in kind.command],
                env={**os.environ, "SAGEMAKER_BIND_TO_PORT": port, **kind.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.first_200_seconds = self._wait_for(self.ping, started)
            self.first_answer_seconds = self._wait_for(self.request, started)
            self.answer = exchange(self.address, self.request)[1]
        except BaseException:
            self.stop()
            raise

    def _wait_for(self, request: bytes, started: float) -> float:
        """Seconds from `started` until it is answered 200."""
        while (seconds := time.perf_counter() - started) < START_SECONDS:
            if self.process.poll() is not None:
                break
            try:
                if exchange(self.address, request)[0] == 200:
                    return time.perf_counter() - started
            except OSError:
                pass  # nobody listens yet
            time.sleep(0.01)
        raise RuntimeError(
            f"{self.kind.name} did not start in {seconds:.0f} s:\n{self.log.read_text()[-2000:]}"
        )

    def _pids(self) -> list[int]:
        """Of all its processes: those of its session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                session = stat.read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue  # it has ended
            if int(session) == self.process.pid:
                found.append(int(stat.parent.name))
        return found

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        ticks = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def pss_megabytes(self) -> float:
        """Memory of all its processes, what several share counted once."""
        kilobytes = 0
        for pid in self._pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kilobytes * 1024 / 1e6

    def pause(self) -> None:
        """Let it take no processor time, not even what it takes when nobody asks for anything."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, number)
