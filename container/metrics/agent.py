"""The metrics agent, `python -m metrics.agent`: samples the GPUs beside the trainer or the server.

A thread samples, because a hung driver call cannot be interrupted; another receives what the trainer or the
workers tell of their work. The main thread publishes, keeps the snapshot and the summary, and ends on SIGTERM
or with its parent, whatever the sampling thread is doing. It can never fail the job: any trouble is one line
on standard error and exit code 0.
"""

import argparse
import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics import emf, work
from metrics.cloudwatch import LEVELS, Identity
from metrics.period import series_of
from metrics.sample import GpuSample
from metrics.sinks import SINKS, Sink, open_sink
from metrics.snapshot import Snapshot
from metrics.verdict import JobTotals, told

NICENESS = 10
PARENT_POLL_SECONDS = 0.5
SILENT_INTERVALS = 30
"""A driver that has not answered for so many sampling intervals is reported as hung."""
BACKLOG_MOMENTS = 900
"""Moments kept while standard output takes no more lines: 15 minutes; later ones are dropped."""

SUMMARY_INTERVALS = 1
"""The summary is rewritten after so many sampling intervals: whoever reads it before the end, as the report of a job
of seconds does, has nearly all."""

Moment = tuple[float, list[GpuSample]]
"""Seconds since 1970, and a sample of each GPU taken then."""
Event = Moment | Mapping[str, float] | Exception | None
"""From the sampling thread: a moment, or the error that ended it; work figures; None, from SIGTERM: stop."""

_log = logging.getLogger("metrics.agent")


def main() -> None:
    options = parse(sys.argv[1:])
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)  # else it tells where it found credentials
    try:
        run(options)
    except Exception as error:  # noqa: BLE001 - whatever happens here, the job must not look failed
        _log.error("GPU metrics end here: %s: %s", type(error).__name__, " ".join(str(error).split()))
    # Not sys.exit: the driver library's own clean-up could wait for the thread that hangs in it.
    os._exit(0)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m metrics.agent", description="Sample GPUs, publish metrics."
    )
    parser.add_argument("--phase", required=True, help="training or serving: the dimension Phase")
    parser.add_argument("--dimension", action="append", default=[], metavar="NAME=VALUE", help="repeatable")
    parser.add_argument("--snapshot", type=Path, help="Prometheus text file to keep up to date")
    parser.add_argument("--summary", type=Path, help="JSON file for the whole job's figures and verdict")
    parser.add_argument("--sink", choices=SINKS, default="emf", help="where the metrics go")
    parser.add_argument("--region", help="AWS region of PutMetricData")
    parser.add_argument("--level", choices=LEVELS, default="host", help="how finely series are told apart")
    parser.add_argument("--work-address", help="where to receive work figures")
    parser.add_argument("--num-hosts", type=int, default=1, help="hosts that share the reported work")
    parser.add_argument("--usd-per-hour", type=float, help="what this host costs")
    parser.add_argument(
        "--parent-pid", type=int, default=os.getppid(), help="end when this is not the parent"
    )
    parser.add_argument("--interval-seconds", type=float, default=1.0, help="between samples")
    parser.add_argument("--publish-seconds", type=float, default=60.0, help="covered by one line")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Sample, publish and keep the snapshot until SIGTERM or until the parent is gone."""
    dimensions = dict(text.split("=", 1) for text in options.dimension)
    identity = Identity(options.phase, dimensions, options.level)
    emf.check(identity)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    become_background(events)
    sampler = threading.Thread(target=sample, args=(events, options.interval_seconds), daemon=True)
    sampler.start()

    if options.work_address:
        threading.Thread(target=receive, args=(events, options.work_address), daemon=True).start()
    sink = open_sink(options.sink, identity, options.region)
    period = Period(sink, options.publish_seconds, options.num_hosts, options.usd_per_hour)
    summary = Summary(options.summary, JobTotals(options.num_hosts, options.usd_per_hour))
    snapshot = Snapshot(options.snapshot)
    silence_seconds = SILENT_INTERVALS * options.interval_seconds
    answered, hung = time.monotonic(), False
    try:
        while os.getppid() == options.parent_pid:
            try:
                event = events.get(timeout=min(PARENT_POLL_SECONDS, options.interval_seconds))
            except queue.Empty:
                event = (time.time(), [])
            if event is None:
                break
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Mapping):
                period.add_work(time.time(), event)
                summary.totals.add_work(event, summary.age_of_job_seconds)
                continue
            now, samples = event
            period.add(now, samples)
            summary.totals.add(samples)
            if summary.age_seconds > SUMMARY_INTERVALS * options.interval_seconds:
                summary.write()
            if samples:
                snapshot.replace(samples)
                answered, hung = time.monotonic(), False
            elif sampler.is_alive() and not hung and time.monotonic() - answered > silence_seconds:
                hung = True
                snapshot.remove()
                _log.warning("the GPU driver has not answered for %.3g s; waiting for it", silence_seconds)
    finally:
        snapshot.remove()
        period.publish()
        if figures := summary.write():
            _log.info("%s", told(figures))
        sink.close()


def become_background(events: queue.SimpleQueue[Event]) -> None:
    """Stand behind the job for the processor, and undo what the parent's signal set-up left here."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, lambda number, frame: events.put(None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def sample(events: queue.SimpleQueue[Event], interval_seconds: float) -> None:
    """The sampling thread: a moment each interval until no GPU is left, or the error that ended it."""
    try:
        # Not above: an image without nvidia-ml-py must get as far as saying so in one line.
        from metrics.gpus import NoGpuError, open_gpus

        try:
            gpus = open_gpus()
        except NoGpuError as error:
            _log.info("no GPU is sampled: %s", error)
            return
        due, number = time.monotonic(), 0
        while samples := [sample for sample in (gpu.sample(number) for gpu in gpus) if sample is not None]:
            number += 1
            if events.qsize() < BACKLOG_MOMENTS:
                events.put((time.time(), samples))
            # By absolute time, so that the calls' own duration does not add up; what a slow call
            # overran is skipped, not made up for.
            late = time.monotonic() - due
            due += interval_seconds * (1 + late // interval_seconds)
            time.sleep(max(0.0, due - time.monotonic()))
    except Exception as error:  # noqa: BLE001 - handed to the main thread, which reports it
        events.put(error)


def receive(events: queue.SimpleQueue[Event], address: str) -> None:
    """The receiving thread: each message of the trainer, for as long as the agent lives."""
    try:
        for message in work.messages(work.listen(address)):
            if events.qsize() < BACKLOG_MOMENTS:
                events.put(message)
    except OSError as error:
        _log.warning("no work figures: cannot listen at %s (%s)", address, error.strerror)


class Period:
    """What came in one publishing period; periods start at whole multiples of their length."""

    def __init__(self, sink: Sink, seconds: float, num_hosts: int, usd_per_hour: float | None) -> None:
        self._sink, self._seconds = sink, seconds
        self._num_hosts, self._usd_per_hour = num_hosts, usd_per_hour
        self._begun = time.time()
        self._number = int(self._begun // seconds)
        self._samples: list[GpuSample] = []
        self._work: list[Mapping[str, float]] = []

    def add(self, now: float, samples: list[GpuSample]) -> None:
        """Take samples of the time `now` (seconds since 1970); publish the old period when it is over."""
        number = int(now // self._seconds)
        if number != self._number:
            self.publish()
            self._number = number
        self._samples += samples

    def add_work(self, now: float, message: Mapping[str, float]) -> None:
        """Take work figures of the time `now`, likewise."""
        self.add(now, [])
        self._work.append(message)

    def publish(self) -> None:
        """Hand over what has been taken since the last time."""
        now = time.time()
        series = series_of(
            self._samples,
            self._work,
            seconds=max(0.0, now - self._begun),
            num_hosts=self._num_hosts,
            usd_per_hour=self._usd_per_hour,
        )
        self._samples, self._work, self._begun = [], [], now
        self._sink.publish(series, int(self._number * self._seconds * 1000))


class Summary:
    """The file at `path` with what is known of the whole job; without a path there is none, and no verdict."""

    def __init__(self, path: Path | None, totals: JobTotals) -> None:
        self._path, self.totals = path, totals
        self._begun = self._written = time.monotonic()
        if path is not None:  # an earlier attempt's, on the same folders
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def age_seconds(self) -> float:
        """Since it was last written."""
        return time.monotonic() - self._written

    @property
    def age_of_job_seconds(self) -> float:
        """Since the agent began, which is when the job does."""
        return time.monotonic() - self._begun

    def write(self) -> dict[str, Any]:
        """Rewrite the file in one step; what was written, empty when nothing is known."""
        self._written = time.monotonic()
        figures = self.totals.summary(self._written - self._begun) if self._path else {}
        if figures and self._path is not None:
            # An output folder that cannot be written to is the job's trouble, and reported there.
            with contextlib.suppress(OSError):
                temporary = self._path.with_name(f".{self._path.name}.new")
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="ascii")
                temporary.replace(self._path)
        return figures


if __name__ == "__main__":
    main()
