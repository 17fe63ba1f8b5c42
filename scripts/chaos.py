#!/usr/bin/env python3
"""Breaks a server in every way that hosts and clients do, and prints what came of it: `make chaos`.

The server is `container/serve` as SageMaker starts it, without Docker, with the tests' doubling model
(20 ms of work a request), since what is tried here is the server and not a network. --quick takes
a minute, the whole about twelve, ten of them the soak. Exits with 1 when something did not hold.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
WORK = {"sleep": 0.02}
CONNECTIONS = 8
HEADERS = {"Content-Type": "application/json"}
PING_LIMIT_SECONDS = 2.0
"""What SageMaker waits for /ping."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Finding:
    """What an experiment showed, and whether that is as it should be; None: it could not be tried."""

    seen: str
    held: bool | None


class Server:
    """A running `serve`, in a folder of its own."""

    def __init__(
        self, folder: Path, prefix: tuple[str, ...] = (), model: str = '{"factor": 2}', **settings: Any
    ):
        self.folder = folder
        (folder / "model").mkdir()
        (folder / "model/model.json").write_text(model)
        (folder / "tmp").mkdir()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "tests/fakes"),
            "MODEL_PACKAGE": "doubling",
            "GPU_METRICS": "off",
            "SAGEMAKER_BASE_DIR": str(folder),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "TMPDIR": str(folder / "tmp"),
            **{name: str(value) for name, value in settings.items()},
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(ROOT / "container/serve")],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self, seconds: float = 20) -> float:
        """Seconds until /ping said 200."""
        began = time.monotonic()
        while self.ping()[0] != 200:
            if time.monotonic() - began > seconds or self.process.poll() is not None:
                raise SystemExit(f"chaos: the server is not ready:\n{self.log.read_text()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_until_unhealthy(self, seconds: float = 20) -> float | None:
        """Seconds until /ping said something else than 200; None if it did not."""
        began = time.monotonic()
        while self.ping()[0] == 200:
            if time.monotonic() - began > seconds:
                return None
            time.sleep(0.01)
        return time.monotonic() - began

    def ping(self) -> tuple[int | None, float]:
        """Status of a /ping, None where nobody answers, and its seconds."""
        began = time.monotonic()
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/ping", timeout=10).status_code, time.monotonic() - began
        return None, time.monotonic() - began

    def invoke(self, value: Any, session: Any = requests) -> int:
        """Status of a request. Raises requests.RequestException where there is no answer."""
        answer = session.post(f"{self.url}/invocations", json.dumps(value), headers=HEADERS, timeout=60)
        return int(answer.status_code)

    def post(self, body: bytes) -> int:
        """Status of a request with this body."""
        return requests.post(f"{self.url}/invocations", body, headers=HEADERS, timeout=60).status_code

    def workers(self) -> list[int]:
        """The processes below Gunicorn's master."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def resident_megabytes(self) -> float:
        """Memory of all workers together."""
        sizes = [Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", size)[1]) for size in sizes) / 1024  # type: ignore[index]

    def open_files(self) -> int:
        """Files and connections that all workers have open."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers())

    def end(self) -> None:
        """Stop it, whatever it does."""
        if self.process.poll() is None:
            children = self.workers()
            self.process.kill()  # first, or it would replace its workers
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def server(**options: Any) -> Iterator[Server]:
    """A server that is ready, ended and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    started = Server(folder, **options)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.end()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Load:
    """Clients that send one request after the other, each on a connection that it keeps."""

    server: Server
    connections: int = CONNECTIONS
    keeps_connections: bool = True
    """Else each request is on one of its own."""
    stop_at: tuple[Any, ...] = ()
    """Outcomes after which a client is done, besides the end of the load."""
    outcomes: Counter[Any] = field(default_factory=Counter)
    """How many requests ended with a status, or with the name of a connection's error."""
    slowest_seconds: float = 0.0

    def __enter__(self) -> "Load":
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(self.connections)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    outcome: Any = self.server.invoke(WORK, session if self.keeps_connections else requests)
                except requests.ConnectionError as error:
                    outcome = "refused" if "refused" in str(error) else "broken"
                except requests.Timeout:
                    outcome = "late"
                with self._lock:
                    self.outcomes[outcome] += 1
                    self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                if outcome in self.stop_at:
                    return

    def __str__(self) -> str:
        return f"{self.bad} of {self.good + self.bad} requests failed"

    @property
    def good(self) -> int:
        """How many were answered 200."""
        return self.outcomes[200]

    @property
    def bad(self) -> int:
        """How many were not."""
        return sum(self.outcomes.values()) - self.good


def killed_worker(seconds: float, **options: Any) -> Finding:
    """Only what it had accepted may fail: one request a connection at most."""
    with server(SAGEMAKER_MODEL_SERVER_WORKERS=2, model='{"factor": 2, "load_seconds": 3}') as victim:
        with Load(victim, **options) as load:
            time.sleep(seconds / 2)
            os.kill(victim.workers()[0], signal.SIGKILL)
            missed = victim.wait_until_unhealthy()
            recovery = victim.wait_until_ready()
            time.sleep(seconds / 2)
        with Load(victim, **options) as after:
            time.sleep(seconds / 2)
    seen = f"{load}, whole again after {recovery:.1f} s"
    only_its_own = load.bad <= CONNECTIONS and set(load.outcomes) <= {200, "broken"}
    return Finding(seen, missed is not None and only_its_own and after.bad == 0)


def killed_worker_of_new_connections(seconds: float) -> Finding:
    return killed_worker(seconds, keeps_connections=False)


def stopped(seconds: float) -> Finding:
    with server(SAGEMAKER_MODEL_SERVER_WORKERS=2) as victim, Load(victim, stop_at=(503, "refused")) as load:
        time.sleep(seconds / 2)
        began = time.monotonic()
        victim.process.send_signal(signal.SIGTERM)
        code = victim.process.wait(30)
        took = time.monotonic() - began
    lost = load.outcomes["broken"] + load.outcomes["late"] + load.outcomes[500]
    seen = f"{lost} lost of {load.good + lost}, exit code {code} after {took:.1f} s"
    return Finding(seen, lost == 0 and code == 0 and load.good > 0)


def slow_clients(seconds: float) -> Finding:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
    beginnings = (b"", head, head + b"\r\n[")
    with server() as victim, contextlib.ExitStack() as idle:
        for number in range(200):
            client = idle.enter_context(socket.create_connection(("127.0.0.1", victim.port), timeout=5))
            client.sendall(beginnings[number % len(beginnings)])
        with Load(victim) as load:
            slowest = slowest_ping(victim, seconds)
    seen = f"{load}, slowest {load.slowest_seconds:.2f} s; /ping {slowest:.2f} s at most"
    return Finding(seen, load.bad == 0 and load.good > 0 and slowest < PING_LIMIT_SECONDS)


def trickling_clients(seconds: float) -> Finding:
    """More than there are threads: large bodies and chunks, a byte at a time for as long as they are let."""
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    beginnings = (
        head + b"Content-Length: 10000000\r\n\r\n" + b" " * 70_000,
        head + b"Content-Length: 1000000\r\n\r\n" + b" " * 70_000,
        head + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n ",
    )
    with server(MAX_BODY_MB=100) as victim, contextlib.ExitStack() as slow:
        clients = []
        for number in range(90):
            client = slow.enter_context(socket.create_connection(("127.0.0.1", victim.port), timeout=5))
            client.sendall(beginnings[number % len(beginnings)])
            clients.append(client)
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(1):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.send(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        with Load(victim) as load:
            slowest = slowest_ping(victim, seconds)
        over.set()
        thread.join()
    seen = f"{load}, slowest {load.slowest_seconds:.2f} s; /ping {slowest:.2f} s at most"
    return Finding(seen, load.bad == 0 and load.good > 0 and slowest < PING_LIMIT_SECONDS)


def clients_that_do_not_close(seconds: float) -> Finding:
    """Each gets its answer with "Connection: close", and leaves it at that.

    MAX_QUEUE has room for all that ask at once: what is tried is not the refusal of too many.
    """
    close = b"Host: x\r\nConnection: close\r\n"
    body = b"Content-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]"
    whole = (
        b"GET /ping HTTP/1.1\r\n" + close + b"\r\n",
        b"POST /invocations HTTP/1.1\r\n" + close + body,
        b"NONSENSE\r\n\r\n",
    )
    with server(MAX_QUEUE=128) as victim, contextlib.ExitStack() as left_open, Load(victim) as load:
        for number in range(150):
            client = left_open.enter_context(socket.create_connection(("127.0.0.1", victim.port), timeout=5))
            client.sendall(whole[number % len(whole)])
        slowest = slowest_ping(victim, seconds)
    seen = f"{load}, slowest {load.slowest_seconds:.2f} s; /ping {slowest:.2f} s at most"
    return Finding(seen, load.bad == 0 and load.good > 0 and slowest < PING_LIMIT_SECONDS)


def poisoned_neighbours(seconds: float) -> Finding:
    """A batch with a picture on which the model fails: only the client of that one may hear of it."""
    poison: Counter[int] = Counter()
    with server(MAX_BATCH=8) as victim:
        over = threading.Event()

        def send_poison() -> None:
            with requests.Session() as session:
                while not over.is_set():
                    poison[victim.invoke([1e7], session)] += 1

        threads = [threading.Thread(target=send_poison) for _ in range(2)]
        with Load(victim) as load:
            for thread in threads:
                thread.start()
            slowest = slowest_ping(victim, seconds)
            over.set()
            for thread in threads:
                thread.join()
    seen = f"{load} beside {sum(poison.values())} that the model fails on; /ping {slowest:.2f} s at most"
    as_should_be = set(poison) == {500} and load.bad == 0 and load.good > 0
    return Finding(seen, as_should_be and slowest < PING_LIMIT_SECONDS)


def slowest_ping(victim: Server, seconds: float) -> float:
    """The slowest /ping of those in so many seconds; infinite when one was not 200."""
    slowest, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        status, took = victim.ping()
        slowest = max(slowest, took if status == 200 else float("inf"))
        time.sleep(0.02)
    return slowest


def vanishing_clients(seconds: float) -> Finding:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n"
    sent = 0
    with server() as victim:
        files = victim.open_files()
        with Load(victim, connections=2) as load:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for request in (head[:30], head + b"[", head + b"[1]"):
                    with socket.create_connection(("127.0.0.1", victim.port), timeout=5) as client:
                        client.sendall(request)
                    sent += 1
                time.sleep(0.01)
        time.sleep(0.5)
        left = max(0, victim.open_files() - files)  # some may have been open before
    seen = f"{sent} vanished; {load} of those that stayed, {left} connections left open"
    return Finding(seen, load.bad == 0 and load.good > 0 and left <= 2)


def saturated(seconds: float) -> Finding:
    with server() as victim, Load(victim, connections=64) as load:
        slowest = slowest_ping(victim, seconds)
    refused = load.outcomes[503]
    seen = f"/ping {slowest:.2f} s at most; {load.good} answered, {refused} refused with 503"
    return Finding(seen, slowest < PING_LIMIT_SECONDS and set(load.outcomes) <= {200, 503})


def corrupted_model(seconds: float) -> Finding:
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    victim = Server(folder, model='{"factor": ')
    try:
        began = time.monotonic()
        code = victim.process.wait(30)
        took = time.monotonic() - began
        cause = victim.log.read_text().splitlines()[-1]
    finally:
        victim.end()
        shutil.rmtree(folder, ignore_errors=True)
    named = "cannot be served" in cause and str(folder) in cause
    seen = f"exit code {code} after {took:.1f} s, the cause {'' if named else 'not '}in the last line"
    return Finding(seen, code != 0 and named)


def full_disk(seconds: float) -> Finding:
    """In a mount namespace of its own, with 32 MiB as its temporary folder."""
    mount = 'mount -t tmpfs -o size=32m tmpfs "$TMPDIR" && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*prefix[:-2], "mount -t tmpfs tmpfs /tmp"], capture_output=True).returncode:
        return Finding("this machine lets nobody mount a small disk", held=None)
    with server(prefix=prefix, SAGEMAKER_MODEL_SERVER_WORKERS=2) as victim:
        too_large = victim.post(b"[1]" + b" " * 60 * MEBIBYTE)
        disk = Path(f"/proc/{victim.process.pid}/root") / victim.folder.relative_to("/") / "tmp"
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        full = victim.post(b"[1]" + b" " * 9 * MEBIBYTE)
        with Load(victim) as load:
            slowest = slowest_ping(victim, seconds)
        (disk / "filler").unlink()
        after = victim.post(b"[1]" + b" " * 9 * MEBIBYTE)
    seen = f"large bodies {too_large} and {full}, {after} when there is room; {load} with small ones"
    as_should_be = (too_large, full, after) == (507, 507, 200)
    return Finding(seen, as_should_be and load.bad == 0 and slowest < PING_LIMIT_SECONDS)


def device_fault(seconds: float) -> Finding:
    with server(SAGEMAKER_MODEL_SERVER_WORKERS=2) as victim:
        failed = victim.invoke({"fail": "CUDA error: an illegal memory access was encountered"})
        took = victim.wait_until_unhealthy()
        stays = all(victim.ping()[0] == 503 for _ in range(20))
    if took is None:
        return Finding(f"{failed}, and /ping goes on saying 200", held=False)
    seen = f"{failed}, then /ping 503 after {took:.2f} s, {'for good' if stays else 'but not for good'}"
    return Finding(seen, failed == 500 and stays)


def soak(seconds: float) -> Finding:
    with server(SAGEMAKER_MODEL_SERVER_WORKERS=2) as victim, Load(victim, connections=4) as load:
        time.sleep(seconds / 5)
        memory, files = victim.resident_megabytes(), victim.open_files()
        time.sleep(seconds * 4 / 5)
        grown, more = victim.resident_megabytes() - memory, victim.open_files() - files
    seen = (
        f"{load} in {seconds:.0f} s, slowest {load.slowest_seconds:.2f} s; "
        f"memory {grown:+.1f} MB, open files {more:+d}"
    )
    return Finding(seen, load.bad == 0 and grown < 10 and more < 10)


EXPERIMENTS: dict[str, Callable[[float], Finding]] = {
    "kill -9 of one of two workers, 8 connections": killed_worker,
    "the same, each request on a new connection": killed_worker_of_new_connections,
    "SIGTERM, 8 connections": stopped,
    "200 clients that send no, half a head, half a body": slow_clients,
    "90 clients that send their bodies byte by byte": trickling_clients,
    "150 clients that leave closed connections open": clients_that_do_not_close,
    "clients that vanish": vanishing_clients,
    "64 connections on 32 places, /ping polled": saturated,
    "pictures that the model fails on, in everybody's batches": poisoned_neighbours,
    "a model file cut off": corrupted_model,
    "temporary folder full": full_disk,
    "a device fault": device_fault,
    "soak, 4 connections": soak,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds of each, for a first look and for CI")
    arguments = parser.parse_args()
    seconds, soak_seconds = (2.0, 5.0) if arguments.quick else (10.0, 600.0)
    print("| what is done to it | what came of it | |\n|---|---|---|", flush=True)
    held = True
    for name, experiment in EXPERIMENTS.items():
        finding = experiment(soak_seconds if experiment is soak else seconds)
        verdict = {True: "holds", False: "FAILS", None: "not tried"}[finding.held]
        print(f"| {name} | {finding.seen} | {verdict} |", flush=True)
        held = held and finding.held is not False
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
