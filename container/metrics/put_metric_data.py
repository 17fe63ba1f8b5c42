"""The sink that calls CloudWatch's PutMetricData itself: for jobs whose role and network let it.

A thread of its own calls, so that a dead network holds nothing up. What cannot be delivered is not
lost: after ten failures in a row, at the end, and when too much waits, it is printed as EMF lines.
What was delivered is neither called nor printed again: calls and not periods are what waits.
"""

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from metrics.catalogue import Series
from metrics.cloudwatch import NAMESPACE, Identity

# CloudWatch API reference, "PutMetricData": 1,000 metrics and 1 MB a call, 150 different values a metric.
# Of our metrics 300 are always below that megabyte.
METRICS_PER_CALL = 300
VALUES_PER_METRIC = 150
CALLS_THAT_WAIT = 15
"""A quarter of an hour, of which hosts with very many GPUs may have less."""
SEND_JITTER_SECONDS = 5.0
"""A call waits up to so long, so that the hosts of a job do not all call at the start of the minute."""
FAILURES_BEFORE_EMF = 10
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
CLOSE_SECONDS = 1.5
"""At the end the last period may take so long to be delivered; the agent is killed after two seconds."""
CONFIG = Config(
    connect_timeout=2,
    read_timeout=3,
    retries={"total_max_attempts": 1},  # the pauses here are longer, and counted
    user_agent_extra="surface-normals-metrics",
)

_log = logging.getLogger("metrics.agent")

Call = tuple[Sequence[Series], int]
"""What goes out together, and its timestamp in milliseconds."""


class PutMetricData:
    """Delivers periods in order; to `fallback`, a sink, goes whatever cannot be delivered."""

    def __init__(
        self,
        identity: Identity,
        region: str | None,
        fallback: Any,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        jitter_seconds: float = SEND_JITTER_SECONDS,
    ) -> None:
        self._identity, self._region, self._fallback = identity, region, fallback
        self._first_pause_seconds, self._jitter_seconds = first_pause_seconds, jitter_seconds
        self._waiting: deque[Call] = deque()
        self._changed = threading.Condition()
        self._closing = self._fallen_back = False
        self._is_calling = self._answers = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def publish(self, series: Sequence[Series], timestamp_milliseconds: int) -> None:
        """Queue a period; returns at once."""
        if not series:
            return
        with self._changed:
            if not self._fallen_back:
                self._waiting += calls(series, timestamp_milliseconds, self._identity)
                while len(self._waiting) > CALLS_THAT_WAIT:
                    self._fallback.publish(*self._waiting.popleft())
                self._changed.notify()
                return
        self._fallback.publish(series, timestamp_milliseconds)

    def close(self) -> None:
        """Deliver what waits, or print it.

        A call whose answer is still out is printed, too, unless CloudWatch took the one before it: then it has
        this one as well, and is only slow to say so.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
        with self._changed:
            if self._is_calling and self._answers and self._waiting:
                self._waiting.popleft()
            self._print_waiting()

    def _run(self) -> None:
        client, failures = None, 0
        # Made before it is needed: that takes a second, and the last period may have no more. What
        # fails here is met again, and counted, with a period.
        with suppress(BotoCoreError, Boto3Error, OSError, ValueError):
            client = self._connect()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                pause = random.uniform(0, self._jitter_seconds)  # noqa: S311
                self._changed.wait_for(lambda: self._closing, pause)
                if not self._waiting or self._fallen_back:
                    return
                call = self._waiting[0]
                self._is_calling = True
            try:
                # A client is made anew after a failure: credentials may have come by then.
                client = client or self._connect()
                client.put_metric_data(**arguments(*call, self._identity))
            except (BotoCoreError, Boto3Error, ClientError, OSError, ValueError) as error:
                client, failures = None, failures + 1
                self._is_calling = self._answers = False
                if self._give_up_after(failures, error):
                    return
            else:
                failures = 0
                with self._changed:
                    self._is_calling, self._answers = False, True
                    if self._waiting and self._waiting[0] is call:
                        self._waiting.popleft()

    def _connect(self) -> Any:
        return boto3.client("cloudwatch", region_name=self._region, config=CONFIG)

    def _give_up_after(self, failures: int, error: Exception) -> bool:
        """Say the first failure, wait longer after each, and fall back for good after the last."""
        reason = " ".join(str(error).split())
        if failures == 1:
            _log.warning("PutMetricData failed, it is tried again: %s", reason)
        with self._changed:
            if failures >= FAILURES_BEFORE_EMF:
                _log.warning("PutMetricData failed %d times, EMF lines from here on: %s", failures, reason)
                self._fallen_back = True
                self._print_waiting()
                return True
            if not self._closing:
                pause = min(LONGEST_PAUSE_SECONDS, self._first_pause_seconds * 2 ** (failures - 1))
                # Jitter, so that the hosts of a job do not come back all at once.
                self._changed.wait_for(lambda: self._closing, pause * random.uniform(0.5, 1.0))  # noqa: S311
        return False

    def _print_waiting(self) -> None:
        while self._waiting:
            self._fallback.publish(*self._waiting.popleft())


def calls(series: Sequence[Series], timestamp_milliseconds: int, identity: Identity) -> Iterator[Call]:
    """The series of a period, as many at a time as one call takes."""
    some: list[Series] = []
    room = METRICS_PER_CALL
    for one in series:
        needed = len(_data([one], 0, identity))
        if needed > room:
            yield some, timestamp_milliseconds
            some, room = [], METRICS_PER_CALL
        some.append(one)
        room -= needed
    yield some, timestamp_milliseconds


def arguments(series: Sequence[Series], timestamp_milliseconds: int, identity: Identity) -> dict[str, Any]:
    """Of PutMetricData, for one of `calls`."""
    return {"Namespace": NAMESPACE, "MetricData": _data(series, timestamp_milliseconds, identity)}


def _data(series: Sequence[Series], timestamp_milliseconds: int, identity: Identity) -> list[dict[str, Any]]:
    return [
        {
            "MetricName": one.name,
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Timestamp": timestamp_milliseconds / 1000,
            "Unit": one.unit,
            "Values": [float(value) for value, _ in counted],
            "Counts": [float(count) for _, count in counted],
        }
        for one in series
        for dimensions in identity.sets(one.part)
        for counted in _portions(sorted(Counter(one.values).items()))
    ]


def _portions(counted: list[tuple[float, int]]) -> Iterator[list[tuple[float, int]]]:
    for start in range(0, len(counted), VALUES_PER_METRIC):
        yield counted[start : start + VALUES_PER_METRIC]
