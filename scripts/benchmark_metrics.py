#!/usr/bin/env python3
"""What the metrics cost a job: `make bench-metrics`, on a driver library that pretends to have eight GPUs.

The agent's processor time and memory; then a training step, requests to a model that does nothing but double numbers,
and requests for normals, with metrics on and off in turn, so that whatever else the machine does falls on both alike.

Two answers each. Processor time, of the job and of its agent together: nobody else's work is in it, so that it tells
an effect of a part of 1 %, and where all cores are busy it is what the job loses. The mean of it: the agent works once
a second, in one half of many, of which a median knows nothing. And the time on the clock, as the median of the pairs,
which other programs spoil less.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests" / "fakes")]

import nvml  # noqa: E402
from metrics.work import WorkSender  # noqa: E402
from serving_benchmark import workload  # noqa: E402
from surface_normals.drift_figures import FIGURES  # noqa: E402
from surface_normals.training import Config  # noqa: E402
from surface_normals.training.batches import training_batches  # noqa: E402
from surface_normals.training.dataset import PictureDataset  # noqa: E402
from surface_normals.training.loop import Trainer  # noqa: E402
from surface_normals.training.synthetic import write_dataset  # noqa: E402

GPUS = 8
"""Of the agent by itself. A job beside it has one: more than a machine of these few cores has."""
STEP_PAIRS, REQUEST_PAIRS, NORMALS_PAIRS = 450, 120, 100
"""Of each comparison, with servers of each start; either half takes some 100 ms."""
STARTS = 4
"""Of two servers that are alike, one may be faster by 2 % for as long as it lives."""
REQUESTS = 50
"""Of a half, to the model that does nothing; for normals it is one."""
WATCHED_SECONDS = 30
ADDRESS = "benchmark-metrics"
WALL, CPU = 0, 1


@dataclass(frozen=True)
class Side:
    """On, or off: a half's work, and whose processor time is the job's."""

    work: Callable[[], None]
    pids: tuple[int, ...]


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
        nvml.turn(driver, {"gpus": 1, "0.gpm": 1})
        with agent(driver, folder) as pid:
            tell("training step", compare(training(pid, folder), STEP_PAIRS))
        doubling = folder / "doubling"
        (doubling / "model").mkdir(parents=True)
        (doubling / "model" / "model.json").write_text('{"factor": 2}')
        ask = partial(requests, b"[1, 2, 3]", "application/json", REQUESTS)
        tell(f"{REQUESTS} requests", of_each_start(driver, doubling, "doubling", ask, REQUEST_PAIRS))
        normals = folder / "normals"
        make_normals_model(normals / "model")
        ask = partial(requests, workload.picture(), workload.REQUEST_TYPE, 1)
        tell("request for normals", of_each_start(driver, normals, "surface_normals", ask, NORMALS_PAIRS))


def of_each_start(
    driver: Path, folder: Path, package: str, ask: Callable[[http.client.HTTPConnection], None], pairs: int
) -> NDArray[np.float64]:
    """What `compare` finds of two servers, for each of STARTS pairs of them."""
    found = []
    for _ in range(STARTS):
        with servers(driver, folder, package, ask) as sides:
            found.append(compare(sides, pairs))
    return np.concatenate(found)


def compare(sides: tuple[Side, Side], pairs: int) -> NDArray[np.float64]:
    """(pairs, 2, 2): each pair's seconds of off and of on, on the clock and of the processor.

    One half comes right after the other; which of them goes first changes.
    """
    seconds = np.empty((pairs, 2, 2))
    for side in 3 * sides:  # warms up
        side.work()
    for number in range(pairs):
        for column in (0, 1) if number % 2 else (1, 0):
            side = sides[column]
            used, started = sum(map(cpu_seconds, side.pids)), time.perf_counter()
            side.work()
            seconds[number, column, WALL] = time.perf_counter() - started
            seconds[number, column, CPU] = sum(map(cpu_seconds, side.pids)) - used
    return seconds


def tell(what: str, seconds: NDArray[np.float64]) -> None:
    cpu = interval(seconds[:, :, CPU], ratio_of_means)
    wall = interval(seconds[:, :, WALL], median_ratio)
    took = f"{1000 * np.median(seconds[:, 0, WALL]):.0f} ms without"
    print(f"{what}, on / off: processor time {cpu}, time {wall}, {took}", flush=True)


def ratio_of_means(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., pairs, 2) to (...)."""
    means: NDArray[np.float64] = pairs.mean(axis=-2)
    return means[..., 1] / means[..., 0]


def median_ratio(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., pairs, 2) to (...)."""
    ratios: NDArray[np.float64] = np.median(pairs[..., 1] / pairs[..., 0], axis=-1)
    return ratios


def interval(pairs: NDArray[np.float64], figure: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> str:
    """A figure of (pairs, 2), and between which values chance alone would leave it 95 times of 100.

    The interval is the bootstrap's (Efron 1979): the figure again, of as many pairs drawn with replacement.
    """
    drawn = np.random.default_rng(0).integers(0, len(pairs), (2000, len(pairs)))
    low, high = np.percentile(figure(pairs[drawn]), [2.5, 97.5])
    return f"{figure(pairs):.4f} ({low:.4f} to {high:.4f})"


def make_normals_model(folder: Path) -> None:
    """An `S` network with a reference of drift, so that requests are held against it."""
    workload.make_model(folder, "S")
    path = folder / "model.json"
    histogram = {"edges": [0.0], "counts": [200, 200]}
    described = json.loads(path.read_text()) | {"reference": dict.fromkeys(FIGURES, histogram)}
    path.write_text(json.dumps(described))


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


def training(agent_pid: int, folder: Path) -> tuple[Side, Side]:
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

    pids = (os.getpid(), agent_pid)
    return Side(lambda: without(agent_pid, lambda: step(silent)), pids), Side(lambda: step(telling), pids)


def without(agent_pid: int, work: Callable[[], None]) -> None:
    """`work` while the agent stands still: what it samples each second, it then samples in the other halves."""
    os.kill(agent_pid, signal.SIGSTOP)
    try:
        work()
    finally:
        os.kill(agent_pid, signal.SIGCONT)


@contextmanager
def servers(
    driver: Path, folder: Path, package: str, ask: Callable[[http.client.HTTPConnection], None]
) -> Iterator[tuple[Side, Side]]:
    """Two servers of the same model, without and with metrics; the agent stands still while the other is asked."""
    running, connections = [], []
    try:
        for metrics in ("off", "on"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            environ = {
                **os.environ,
                "SAGEMAKER_BASE_DIR": str(folder),
                "SAGEMAKER_BIND_TO_PORT": str(port),
                "MODEL_PACKAGE": package,
                "PYTHONPATH": str(ROOT / "tests" / "fakes"),
                "GPU_METRICS": metrics,
                "LD_LIBRARY_PATH": str(driver),
            }
            command = [sys.executable, str(ROOT / "container" / "serve")]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(command, env=environ, **quiet))
            wait_until(lambda port=port: is_ready(port))
            connections.append(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
        silent, telling = ((server.pid, *children(server.pid)) for server in running)
        agent_pid = next(filter(is_agent, telling))
        yield (
            Side(lambda: without(agent_pid, lambda: ask(connections[0])), silent),
            Side(lambda: ask(connections[1]), telling),
        )
    finally:
        for server in running:
            server.terminate()
        for server in running:
            server.wait(40)


def requests(body: bytes, content_type: str, count: int, connection: http.client.HTTPConnection) -> None:
    for _ in range(count):
        connection.request("POST", "/invocations", body, {"Content-Type": content_type})
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
    """User and system time of a process, in hundredths; of this one as fine as the clock is."""
    if pid == os.getpid():
        return time.process_time()
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
