"""What /metrics says of the requests: counters of all workers, added up by prometheus-client.

Each process counts in files of its own under the run directory; whichever is asked adds them. To write there
takes longer than the rest of a small request, so a process writes all that has come once a second, and when
it is asked itself.

Few names and fewer labels: each combination is a series that somebody pays for.
"""

import os
import threading
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections import deque
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
NEWEST = 1000
GPU_FILE_SECONDS = 30.0
"""The agent writes its file each second: an older one is of an agent that has died."""


class Amounts(Histogram):
    """Counts what has come when it is told to, and keeps the newest themselves for the agent, until they are taken."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._come: deque[float] = deque()
        self._newest: deque[float] = deque(maxlen=NEWEST)

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Let one come."""
        self._come.append(amount)

    def settle(self) -> None:
        """Count those that have come: in each bucket all at once."""
        come = taken(self._come)
        for bucket, count in Counts(bisect_left(self._upper_bounds, amount) for amount in come).items():
            self._buckets[bucket].inc(count)
        if come:
            self._sum.inc(sum(come))
            self._newest.extend(come)

    def take(self) -> list[float]:
        """The newest ones since the last call, the oldest first."""
        return taken(self._newest)


def taken(queue: "deque[Any]") -> list[Any]:
    """All that is in it, while others may be adding to it."""
    return [queue.popleft() for _ in range(len(queue))]


class RequestMetrics:
    """The figures of /invocations in this worker, and the text of all workers'."""

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory
        self.requests = Counter(
            "inference_requests", "Requests to /invocations by status code.", ["code"], registry=None
        )
        self.latency = Amounts(
            "inference_request_seconds",
            "Time from a request's arrival to its answer.",
            buckets=SECONDS,
            registry=None,
        )
        self.stage = Amounts(
            "inference_stage_seconds",
            "Time in a stage: decode, queue and encode of one request, predict of one batch.",
            ["stage"],
            buckets=SECONDS,
            registry=None,
        )
        self.batch_size = Amounts(
            "inference_batch_size",
            "Requests that went through the model together.",
            buckets=BATCH_SIZES,
            registry=None,
        )
        self.in_flight = 0
        """Set by whoever knows it, as `queue_depth`."""
        self.queue_depth = 0
        self._codes: deque[int] = deque()
        self._settling = threading.Lock()
        self._in_flight = Gauge(
            "inference_in_flight_requests",
            "Requests that are held: read, decoded, waiting, predicted, encoded.",
            multiprocess_mode="livesum",
            registry=None,
        )
        self._queue_depth = Gauge(
            "inference_queue_depth",
            "Requests that wait for the model.",
            multiprocess_mode="livesum",
            registry=None,
        )

        # Found once: to look a label up for each request takes longer than to count it.
        self.decode, self.queue, self.predict, self.encode = (
            self.stage.labels(name) for name in ("decode", "queue", "predict", "encode")
        )
        self._reserve_disk()

    def _reserve_disk(self) -> None:
        """Take the room of the files, which are written through memory: a disk full later would kill the process.

        Raises OSError where there is no room now.
        """
        self.requests.labels(200)  # the counters' file would come with the first request
        for path in self._run_directory.glob(f"*_{os.getpid()}.db"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def answered(self, code: int, seconds: float) -> None:
        """A request was, so long after it came."""
        self._codes.append(code)
        self.latency.observe(seconds)

    def settle(self) -> None:
        """Write what has come."""
        with self._settling:
            for code, count in Counts(taken(self._codes)).items():
                self.requests.labels(code).inc(count)
            for amounts in (
                self.latency,
                self.batch_size,
                self.decode,
                self.queue,
                self.predict,
                self.encode,
            ):
                amounts.settle()
            self._in_flight.set(self.in_flight)
            self._queue_depth.set(self.queue_depth)

    def totals(self) -> dict[str, float]:
        """This worker's counts and sums of seconds since its start, by names such as `decode_sum`."""
        self.settle()
        codes = [sample for family in self.requests.collect() for sample in family.samples]
        counts = [(sample.labels["code"], sample.value) for sample in codes if sample.name.endswith("_total")]
        totals = {
            "requests": sum(count for _, count in counts),
            "errors": sum(count for code, count in counts if code.startswith("5")),
            "in_flight": self.in_flight,
        }
        for histogram, name in ((self.latency, "request"), (self.batch_size, "batch"), (self.stage, None)):
            for sample in (sample for family in histogram.collect() for sample in family.samples):
                owner, _, kind = sample.name.rpartition("_")
                if kind in ("sum", "count") and owner:
                    totals[f"{name or sample.labels['stage']}_{kind}"] = sample.value
        return totals

    def text(self) -> bytes:
        """All workers' figures in Prometheus's text format, then what the agent wrote last."""
        self.settle()
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, str(self._run_directory))  # type: ignore[no-untyped-call]
        gpus = self._run_directory / "gpus.prom"
        try:
            is_new = time.time() - gpus.stat().st_mtime < GPU_FILE_SECONDS
            of_agent = gpus.read_bytes() if is_new else b""
        except FileNotFoundError:
            of_agent = b""
        return generate_latest(registry) + of_agent
