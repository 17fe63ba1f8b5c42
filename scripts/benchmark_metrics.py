#!/usr/bin/env python3
"""What the metrics cost a job: `make bench-metrics`, on a driver library that pretends to have eight GPUs.

The agent's processor time and memory; then the time of a training step, and of requests, with metrics on and off.
Single steps, on and off in turn, so that whatever else the machine does falls on both alike. The smallest network
on one thread, and a model that does nothing but double numbers: of a real one the same cost is a smaller share.
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
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

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
PAIRS = 600
"""Of each comparison; either half takes 50 to 100 ms."""
REQUESTS = 50
"""Of a half."""
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
            tell("request", compare(load))


def compare(work: dict[str, Callable[[], None]]) -> np.ndarray:
    """[PAIRS, 2] seconds of `off` and `on`, one right after the other; which of them goes first changes."""
    seconds = np.empty((PAIRS, 2))
    for name in 3 * ["off", "on"]:  # warms up
        work[name]()
    for number in range(PAIRS):
        for column in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            work[("off", "on")[column]]()
            seconds[number, column] = time.perf_counter() - started
    return seconds


def tell(what: str, seconds: np.ndarray) -> None:
    """Median of the pairs' ratios, and between which values chance alone would leave it 95 times of 100.

    The interval is the bootstrap's (Efron 1979): the median again, of as many pairs drawn with replacement.
    """
    ratios = seconds[:, 1] / seconds[:, 0]
    drawn = np.random.default_rng(0).choice(ratios, (2000, PAIRS))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    took = f"{1000 * np.median(seconds[:, 0]):.0f} ms without"
    print(f"{what}, on / off: {np.median(ratios):.4f} ({low:.4f} to {high:.4f}), {took}", flush=True)


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


def training(agent_pid: int, folder: Path) -> dict[str, Callable[[], None]]:
    """A step of the smallest network on a batch in memory, told to the agent: far more often than in a job."""
    pictures = folder / "pictures"
    for _ in write_dataset(pictures, count=4, width=160, height=128, seed=1):
        pass
    config = Config(size="tiny", batch_size=4, crop_height=128, crop_width=160, workers=0)
    trainer = Trainer(config, {"train": pictures}, num_steps=10_000)
    batch = next(iter(training_batches(config, PictureDataset("train", pictures), 0, 1)))
    torch.set_num_threads(1)  # the agent has the other core, as in a job that leaves it one
    silent, telling = WorkSender(None), WorkSender(ADDRESS)

    def step(sender: WorkSender) -> None:
        trainer.train_step(batch)
        sender.send(images_per_second=40.0, data_wait_percent=1.0)

    return {"off": lambda: without(agent_pid, lambda: step(silent)), "on": lambda: step(telling)}


def without(agent_pid: int, work: Callable[[], None]) -> None:
    """`work` while the agent stands still: what it samples each second, it then samples in the other halves."""
    os.kill(agent_pid, signal.SIGSTOP)
    try:
        work()
    finally:
        os.kill(agent_pid, signal.SIGCONT)


@contextmanager
def servers(driver: Path, folder: Path) -> Iterator[dict[str, Callable[[], None]]]:
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
            wait_until(lambda port=port: is_ready(port))
            load[metrics] = partial(requests, http.client.HTTPConnection("127.0.0.1", port, timeout=30))
        agent_pid = next(filter(is_agent, children(running[1].pid)))
        yield {"off": lambda: without(agent_pid, load["off"]), "on": load["on"]}
    finally:
        for server in running:
            server.terminate()
        for server in running:
            server.wait(40)


def requests(connection: http.client.HTTPConnection) -> None:
    for _ in range(REQUESTS):
        connection.request("POST", "/invocations", b"[1, 2, 3]", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            sys.exit("benchmark_metrics: agent or server did not come up within 60 s")
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_agent(pid: int) -> bool:
    return "metrics.agent" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


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
