"""The metrics agent, `python -m metrics.agent`: samples the GPUs beside the trainer or the server.

A thread samples, because a hung driver call cannot be interrupted; another receives what the trainer or the
workers tell of their work. The main thread publishes, keeps the snapshot and the summary, and ends on SIGTERM
or with its parent, whatever the sampling thread is doing. It can never fail the job: any trouble is one line
on standard error and exit code 0; trouble with the GPUs leaves the figures of the work.
"""

import argparse
import contextlib
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metrics import emf, work
from metrics.cloudwatch import LEVELS, Identity
from metrics.period import series_of
from metrics.sample import GpuSample
from metrics.sinks import SINKS, Sink, open_sink
from metrics.snapshot import Snapshot
from metrics.summary import Summary
from metrics.verdict import JobTotals, told
from metrics.work import Message, values

NICENESS = 10
PARENT_POLL_SECONDS = 0.5
SILENT_INTERVALS = 30
"""A driver that has not answered for so many sampling intervals is reported as hung."""
BACKLOG_EVENTS = 3600
"""Kept while standard output takes no more lines: 15 minutes of three workers; later ones are dropped."""
LAST_WORDS_SECONDS = 0.5
"""At the end, for what the trainer or the workers have sent already."""

SUMMARY_INTERVALS = 1
"""The summary is rewritten after so many sampling intervals: whoever reads it before the end, as the report of a job
of seconds does, has nearly all."""

Clock = Callable[[], float]


class Moment(NamedTuple):
    """A sample of each GPU taken at `time`, seconds since 1970."""

    time: float
    samples: list[GpuSample]


class Work(NamedTuple):
    """What came from the trainer or a worker at `time`, seconds since 1970."""

    time: float
    message: Message


Events = queue.SimpleQueue[Moment | Work | None]
"""None, from SIGTERM: stop."""

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
        _log.error("GPU metrics end here: %s: %s", type(error).__name__, _in_one_line(error))
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
    identity = Identity(options.phase, dimensions, options.level, boot=secrets.token_hex(4))
    emf.check(identity)
    clock = steady_clock()
    begun = clock()
    events: Events = queue.SimpleQueue()
    become_background(events)
    sampler = threading.Thread(target=sample, args=(events, options.interval_seconds, clock), daemon=True)
    sampler.start()
    ear = Ear(events, options.work_address, clock)
    sink = open_sink(options.sink, identity, options.region)
    period = Period(sink, options.publish_seconds, options.num_hosts, options.usd_per_hour, begun)
    summary = Summary(options.summary, JobTotals(options.num_hosts, options.usd_per_hour))
    snapshot = Snapshot(options.snapshot)
    silence_seconds = SILENT_INTERVALS * options.interval_seconds
    answered, hung = time.monotonic(), False

    def take(event: Moment | Work) -> None:
        if isinstance(event, Work):
            period.add_work(event.time, event.message)
            summary.totals.add_work(event.message, event.time - begun)
            snapshot.add_work(event.message)
        else:
            period.add(event.time, event.samples)
            summary.totals.add(event.samples)

    try:
        while os.getppid() == options.parent_pid:
            event: Moment | Work | None
            try:
                event = events.get(timeout=min(PARENT_POLL_SECONDS, options.interval_seconds))
            except queue.Empty:
                event = Moment(clock(), [])
            if event is None:
                break
            take(event)
            if isinstance(event, Work):
                continue
            if summary.age_seconds > SUMMARY_INTERVALS * options.interval_seconds:
                summary.write()
            if event.samples:
                answered, hung = time.monotonic(), False
            elif sampler.is_alive() and not hung and time.monotonic() - answered > silence_seconds:
                hung = True
                snapshot.remove()
                _log.warning("the GPU driver has not answered for %.3g s; waiting for it", silence_seconds)
            if event.samples or not sampler.is_alive():
                snapshot.replace(event.samples)
    finally:
        for last in ear.last_words():
            take(last)
        snapshot.remove()
        period.publish(clock())
        if figures := summary.write():
            _log.info("%s", told(figures))
        sink.close()


def steady_clock() -> Clock:
    """Seconds since 1970 that never go back: as the system's clock says now, and from here on by the steady one."""
    begun = time.time() - time.monotonic()
    return lambda: begun + time.monotonic()


def become_background(events: Events) -> None:
    """Stand behind the job for the processor, and undo what the parent's signal set-up left here."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, lambda number, frame: events.put(None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def sample(events: Events, interval_seconds: float, clock: Clock) -> None:
    """The sampling thread: a moment each interval until no GPU is left, or until what ends it is said."""
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
            if events.qsize() < BACKLOG_EVENTS:
                events.put(Moment(clock(), samples))
            # By absolute time, so that the calls' own duration does not add up; what a slow call
            # overran is skipped, not made up for.
            late = time.monotonic() - due
            due += interval_seconds * (1 + late // interval_seconds)
            time.sleep(max(0.0, due - time.monotonic()))
    except ImportError as error:
        _log.info("no GPU is sampled: %s", _in_one_line(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the work goes on being published
        _log.error("no GPU is sampled from here on: %s: %s", type(error).__name__, _in_one_line(error))


class Ear:
    """The receiving thread: each message of the trainer or the workers, with the time at which it came."""

    def __init__(self, events: Events, address: str | None, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._receiver: socket.socket | None = None
        self._dropped = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        if address is not None:
            try:
                self._receiver = work.listen(address)
            except OSError as error:
                _log.warning("no work figures: cannot listen at %s (%s)", address, error.strerror)
            else:
                self._thread.start()

    def _run(self) -> None:
        assert self._receiver is not None
        for message in work.messages(self._receiver):
            dropped = self._dropped + sum(values(message, "dropped"))
            if self._events.qsize() >= BACKLOG_EVENTS:
                self._dropped = dropped + 1
                continue
            self._dropped = 0
            self._events.put(Work(self._clock(), {**message, "dropped": dropped} if dropped else message))

    def last_words(self) -> list[Moment | Work]:
        """Hear no more: everything that had been sent by now and was not taken yet, and what was dropped."""
        left: list[Moment | Work] = []
        if self._receiver is not None:
            self._receiver.shutdown(socket.SHUT_RD)  # the thread still gets what waits there
            self._thread.join(LAST_WORDS_SECONDS)
        with contextlib.suppress(queue.Empty):
            while True:
                if (event := self._events.get_nowait()) is not None:
                    left.append(event)
        return [*left, Work(self._clock(), {"dropped": self._dropped})] if self._dropped else left


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Period:
    """What came in one publishing period; periods start at whole multiples of their length.

    Times are seconds since 1970, the data's own. What comes late is counted in the period that has begun by
    then: one that is over is published once.
    """

    def __init__(
        self, sink: Sink, seconds: float, num_hosts: int, usd_per_hour: float | None, now: float
    ) -> None:
        self._sink, self._seconds = sink, seconds
        self._num_hosts, self._usd_per_hour = num_hosts, usd_per_hour
        self._begun, self._number = now, int(now // seconds)
        self._samples: list[GpuSample] = []
        self._work: list[Message] = []

    def add(self, now: float, samples: list[GpuSample]) -> None:
        """Take samples of the time `now`; publish the old period when it is over."""
        number = int(now // self._seconds)
        if number > self._number:
            self.publish((self._number + 1) * self._seconds)
            self._begun, self._number = number * self._seconds, number
        self._samples += samples

    def add_work(self, now: float, message: Message) -> None:
        """Take work figures of the time `now`, likewise."""
        self.add(now, [])
        self._work.append(message)

    def publish(self, now: float) -> None:
        """Hand over what has been taken since the last time."""
        series = series_of(
            self._samples,
            self._work,
            seconds=max(0.0, now - self._begun),
            num_hosts=self._num_hosts,
            usd_per_hour=self._usd_per_hour,
        )
        self._samples, self._work = [], []
        self._sink.publish(series, int(self._number * self._seconds * 1000))


if __name__ == "__main__":
    main()
