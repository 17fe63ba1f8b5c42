#!/usr/bin/env python3
"""What the metrics cost a job: `make bench-metrics`, on a driver library that pretends to have eight GPUs.

The agent's processor time and memory; a training step and a server's throughput with the agent on and off, in
turn in one run. The smallest network and a model that does nothing but double numbers: for a real one the
same cost is a smaller share. The quickest rounds are compared, as whatever else the machine does only makes a
round longer; how far two halves of the rounds without metrics are apart says what is noise.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests" / "fakes")]

import nvml  # noqa: E402
from metrics.work import WorkSender  # noqa: E402
from surface_normals.training import Config  # noqa: E402
from surface_normals.training.batches import training_batches  # noqa: E402
from surface_normals.training.dataset import PictureDataset  # noqa: E402
from surface_normals.training.loop import Trainer  # noqa: E402
from surface_normals.training.synthetic import write_dataset  # noqa: E402

GPUS = 8
ROUNDS = 30
STEPS, REQUESTS, CLIENTS = 12, 1200, 4
"""Of a round, which takes about two seconds, so that the agent samples in each."""
WATCHED_SECONDS = 30
ADDRESS = "benchmark-metrics"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = nvml.build(folder / "driver")
        nvml.turn(driver, {"gpus": GPUS} | {f"{gpu}.gpm": 1 for gpu in range(GPUS)})
        with agent(driver, folder) as pid:
            before = cpu_seconds(pid)
            time.sleep(WATCHED_SECONDS)
            share = 100 * (cpu_seconds(pid) - before) / WATCHED_SECONDS
            print(f"agent, {GPUS} GPUs: {share:.2f} % of a core, {peak_megabytes(pid):.0f} MB", flush=True)
            tell("training step", compare(training(pid, folder)))
        with servers(driver, folder) as load:
            tell("serving throughput", compare(load))


def compare(work: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of each round, `off` and `on` in turn; which of them goes first changes, too."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(ROUNDS + 1):
        for name in sorted(work, reverse=number % 2 == 0):
            took = work[name]()
            if number:  # the first round warms up
                seconds[name].append(took)
    return seconds


def tell(what: str, seconds: dict[str, list[float]]) -> None:
    """Ratio of the quickest rounds; beside it that of two halves of `off`, which differ by chance alone."""
    off, on = seconds["off"], seconds["on"]
    ratio, chance = min(on) / min(off), min(off[::2]) / min(off[1::2])
    print(f"{what + ', on / off:':32} {ratio:.3f} in time (off / off: {chance:.3f})", flush=True)


@contextmanager
def agent(driver: Path, folder: Path) -> Iterator[int]:
    """The agent as `train` starts it, its lines to nowhere; its process id once it samples."""
    snapshot = folder / "gpus.prom"
    command = [sys.executable, "-m", "metrics.agent", "--phase=training", f"--snapshot={snapshot}"]
    command += ["--dimension=Project=benchmark", "--level=gpu", f"--work-address={ADDRESS}"]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    process = subprocess.Popen(
        command, cwd=ROOT / "container", env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(snapshot.exists)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def training(agent_pid: int, folder: Path) -> dict[str, Callable[[], float]]:
    """Steps of the smallest network on a batch in memory, each told to the agent: far more often than in a job."""
    pictures = folder / "pictures"
    for _ in write_dataset(pictures, count=4, width=160, height=128, seed=1):
        pass
    config = Config(size="tiny", batch_size=4, crop_height=128, crop_width=160, workers=0)
    trainer = Trainer(config, {"train": pictures}, num_steps=10_000)
    batch = next(iter(training_batches(config, PictureDataset("train", pictures), 0, 1)))

    def steps(address: str | None) -> float:
        sender = WorkSender(address)
        started = time.perf_counter()
        for _ in range(STEPS):
            trainer.train_step(batch)
            sender.send(images_per_second=40.0, data_wait_percent=1.0)
        taken = time.perf_counter() - started
        sender.close()
        return taken

    return {"off": lambda: without(agent_pid, lambda: steps(None)), "on": lambda: steps(ADDRESS)}


def without(agent_pid: int, work: Callable[[], float]) -> float:
    """What `work` says while the agent stands still."""
    os.kill(agent_pid, signal.SIGSTOP)
    try:
        return work()
    finally:
        os.kill(agent_pid, signal.SIGCONT)


@contextmanager
def servers(driver: Path, folder: Path) -> Iterator[dict[str, Callable[[], float]]]:
    """Two servers of the same model, with and without metrics; the agent stands still while the other is asked."""
    (folder / "ml" / "model").mkdir(parents=True)
    (folder / "ml" / "model" / "model.json").write_text('{"factor": 2}')
    running, load = [], {}
    try:
        for metrics in ("off", "on"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            environ = {
                **os.environ,
                "SAGEMAKER_BASE_DIR": str(folder / "ml"),
                "SAGEMAKER_BIND_TO_PORT": str(port),
                "MODEL_PACKAGE": "doubling",
                "PYTHONPATH": str(ROOT / "tests" / "fakes"),
                "GPU_METRICS": metrics,
                "LD_LIBRARY_PATH": str(driver),
            }
            command = [sys.executable, str(ROOT / "container" / "serve")]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(command, env=environ, **quiet))
            wait_until(lambda port=port: ask(port, "GET", "/ping", 1) == [200])
            load[metrics] = lambda port=port: requests(port)
        agent_pid = child_of(running[1].pid, "metrics.agent")
        yield {"off": lambda: without(agent_pid, load["off"]), "on": load["on"]}
    finally:
        for server in running:
            server.terminate()
        for server in running:
            server.wait(40)


def requests(port: int) -> float:
    """Seconds that so many requests take, from several clients at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(
            pool.map(lambda _: ask(port, "POST", "/invocations", REQUESTS // CLIENTS), range(CLIENTS))
        )
    assert {status for statuses in answers for status in statuses} == {200}
    return time.perf_counter() - started


def ask(port: int, method: str, path: str, times: int) -> list[int]:
    """The statuses of so many requests over one connection; none while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    statuses = []
    try:
        for _ in range(times):
            connection.request(method, path, b"[1, 2, 3]", {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
    except ConnectionRefusedError:
        pass
    finally:
        connection.close()
    return statuses


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            sys.exit("benchmark_metrics: agent or server did not come up within 60 s")
        time.sleep(0.05)


def child_of(parent: int, word: str) -> int:
    """The child process that has this word in its command line."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if word in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid: int) -> float:
    """Largest resident memory of a process so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"process {pid} has no VmHWM")


if __name__ == "__main__":
    main()
