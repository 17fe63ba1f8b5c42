"""Metrics that CloudWatch itself gives back, and what becomes of them when it cannot be reached."""

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import emf_validator
import nvml
from metrics.catalogue import Part, Series
from metrics.cloudwatch import NAMESPACE, Identity
from metrics.put_metric_data import CALLS_THAT_WAIT, SEND_JITTER_SECONDS, PutMetricData, arguments, calls
from running_agent import Agent, wait_until

Start = Callable[..., Agent]
HOST = {"Project": "normals", "JobName": "job=1", "Host": "algo-1"}
FLEET = {"Project": "normals", "Phase": "training"}
IDENTITY = Identity("training", HOST)
PERIOD = [
    Series("GpuUtilization", (50, 50, 70), Part.of_gpu(0)),
    Series("GpuUtilization", (10,), Part.of_gpu(1)),
]


def ask(cloudwatch: Any, metric: str, dimensions: Mapping[str, str]) -> dict[str, float]:
    """Sum, count, least and largest of everything that CloudWatch has of a series."""
    now = datetime.now(timezone.utc)
    [point] = cloudwatch.get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=7200,
        Statistics=["Sum", "SampleCount", "Minimum", "Maximum"],
    )["Datapoints"]
    return {name: point[name] for name in ("Sum", "SampleCount", "Minimum", "Maximum")}


def extract(cloudwatch: Any, lines: list[bytes]) -> None:
    """What CloudWatch Logs does with EMF lines."""
    for datum in (datum for line in lines for datum in emf_validator.read(line)):
        data = {
            "MetricName": datum.name,
            "Dimensions": [{"Name": name, "Value": value} for name, value in datum.dimensions.items()],
            "Timestamp": datum.timestamp_milliseconds / 1000,
            "Unit": datum.unit,
            "Values": datum.values,
            "Counts": [1.0] * len(datum.values),
        }
        cloudwatch.put_metric_data(Namespace=datum.namespace, MetricData=[data])


@pytest.mark.parametrize("sink", ["emf", "putmetricdata"])
def test_cloudwatch_gives_the_drivers_values_back(
    start: Start, driver: Path, cloudwatch: Any, moto_url: str, aws_environ: Callable, sink: str
) -> None:
    nvml.turn(driver, {"gpus": 2, "0.utilization": 80, "1.utilization": 30})
    snapshot = driver / "gpus.prom"
    environ = aws_environ(moto_url)
    agent = start(
        f"--sink={sink}",
        "--region=eu-west-1",
        f"--snapshot={snapshot}",
        "--publish-seconds=60",
        environ=environ,
    )
    wait_until(snapshot.exists)
    time.sleep(3)
    assert agent.finish() == 0
    assert (agent.lines() == []) == (sink == "putmetricdata")
    extract(cloudwatch, agent.lines())
    for dimensions in (HOST, FLEET):
        utilization = ask(cloudwatch, "GpuUtilization", dimensions)
        assert (utilization["Minimum"], utilization["Maximum"]) == (30, 80)
        assert utilization["SampleCount"] >= 20
        assert utilization["Sum"] == utilization["SampleCount"] / 2 * 110
        assert ask(cloudwatch, "GpuUtilizationSpread", dimensions)["Maximum"] == 50


def test_calls_stay_within_cloudwatchs_limits() -> None:
    many = [Series("GpuPowerWatts", tuple(range(1000)), Part.of_gpu(gpu)) for gpu in range(100)]
    made = [arguments(*call, IDENTITY) for call in calls(many, 1_700_000_000_000, IDENTITY)]
    assert all(len(call["MetricData"]) <= 1000 for call in made)
    assert all(len(json.dumps(call)) < 1_000_000 for call in made)
    data = [datum for call in made for datum in call["MetricData"]]
    assert all(len(datum["Values"]) <= 150 for datum in data)
    assert sum(sum(datum["Values"]) for datum in data) == 2 * 100 * sum(range(1000))
    repeated = arguments(PERIOD, 0, IDENTITY)["MetricData"]
    assert (repeated[0]["Values"], repeated[0]["Counts"]) == ([50, 70], [2, 1])


class Recording:
    """The sink behind: keeps what came."""

    def __init__(self) -> None:
        self.timestamps: list[int] = []

    def publish(self, series: object, timestamp_milliseconds: int) -> None:
        self.timestamps.append(timestamp_milliseconds)


class Endpoint(ThreadingHTTPServer):
    """CloudWatch as the network shows it: gives `answers` one after the other, then accepts everything."""

    def __init__(self, answers: list[tuple[int, dict[str, str]]], seconds: float = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.seconds = answers, seconds
        self.delivered: list[int] = []
        self.asked = 0
        self.daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(self.server.seconds)
        status, text = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == 200:
            self.server.delivered.append(round(json.loads(body)["MetricData"][0]["Timestamp"]))
        answer = json.dumps(text).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def endpoint(*answers: tuple[int, dict[str, str]], seconds: float = 0) -> Iterator[tuple[str, Endpoint]]:
    server = Endpoint(list(answers), seconds)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server
    server.shutdown()
    server.server_close()


THROTTLED = (400, {"__type": "ThrottlingException", "message": "Rate exceeded"})
REFUSED = (403, {"__type": "AccessDeniedException", "message": "not authorized"})


@pytest.fixture
def fallback() -> Recording:
    return Recording()


@pytest.fixture
def sink(fallback: Recording) -> Iterator[Callable[..., PutMetricData]]:
    made: list[PutMetricData] = []

    def make(first_pause_seconds: float = 0.001, jitter_seconds: float = 0) -> PutMetricData:
        made.append(PutMetricData(IDENTITY, "eu-west-1", fallback, first_pause_seconds, jitter_seconds))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_throttling_delays_and_loses_nothing(
    sink: Callable, fallback: Recording, aws_environ: Callable
) -> None:
    with endpoint(THROTTLED, THROTTLED, (200, {}), THROTTLED) as (url, server):
        aws_environ(url)
        one = sink()
        for minute in (60, 120, 180):
            one.publish(PERIOD, minute * 1000)
        wait_until(lambda: len(server.delivered) == 3)
        one.close()
    assert server.delivered == [60, 120, 180]
    assert fallback.timestamps == []


def test_after_ten_refusals_lines_are_printed_for_good(
    sink: Callable, fallback: Recording, aws_environ: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with endpoint(*[REFUSED] * 50) as (url, server):
        aws_environ(url)
        one = sink()
        one.publish(PERIOD, 1000)
        wait_until(lambda: fallback.timestamps)
        one.publish(PERIOD, 2000)
        assert fallback.timestamps == [1000, 2000]
        time.sleep(0.2)
    assert server.asked == 10
    first, last = (record.getMessage() for record in caplog.records)
    assert "tried again" in first
    assert "AccessDenied" in last
    assert "EMF lines from here on" in last


def dead_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("changes", [{}, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}])
def test_a_dead_endpoint_and_missing_credentials_end_in_lines(
    sink: Callable, fallback: Recording, aws_environ: Callable, changes: dict
) -> None:
    aws_environ(dead_port(), **changes)
    one = sink()
    one.publish(PERIOD, 1000)
    wait_until(lambda: fallback.timestamps == [1000])


def test_a_slow_endpoint_holds_nothing_up(sink: Callable, fallback: Recording, aws_environ: Callable) -> None:
    with endpoint(seconds=30) as (url, _):
        aws_environ(url)
        one = sink()
        begun = time.monotonic()
        for minute in range(CALLS_THAT_WAIT + 2):
            one.publish(PERIOD, minute)
        assert time.monotonic() - begun < 5
        assert fallback.timestamps == [0, 1]  # the oldest, as no more may wait
        one.close()
        assert time.monotonic() - begun < 10
    assert fallback.timestamps == list(range(CALLS_THAT_WAIT + 2))


def test_what_was_delivered_of_a_period_is_not_delivered_twice(
    sink: Callable, fallback: Recording, aws_environ: Callable
) -> None:
    """A period of three calls, of which the second fails at first."""
    period = [Series("GpuPowerWatts", tuple(range(100)), Part.of_gpu(gpu)) for gpu in range(400)]
    assert len(list(calls(period, 0, IDENTITY))) == 3
    with endpoint((200, {}), THROTTLED) as (url, server):
        aws_environ(url)
        one = sink()
        one.publish(period, 60_000)
        wait_until(lambda: len(server.delivered) >= 3)
        one.close()
    assert server.asked == 4
    assert server.delivered == [60, 60, 60]
    assert fallback.timestamps == []


def test_an_answer_that_is_late_at_the_end_is_not_printed_beside(
    sink: Callable, fallback: Recording, aws_environ: Callable
) -> None:
    with endpoint() as (url, server):
        aws_environ(url)
        one = sink()
        one.publish(PERIOD, 60_000)
        wait_until(lambda: server.delivered == [60])
        time.sleep(0.2)
        server.seconds = 2.5
        one.publish(PERIOD, 120_000)
        wait_until(lambda: server.asked == 2)
        one.publish(PERIOD, 180_000)
        one.close()
        wait_until(lambda: server.delivered[:2] == [60, 120])
    assert fallback.timestamps == [180_000]


def test_hosts_do_not_call_at_the_same_moment(
    sink: Callable, fallback: Recording, aws_environ: Callable
) -> None:
    """But at the end they do not wait for their turn."""
    with endpoint() as (url, server):
        aws_environ(url)
        patient = sink(jitter_seconds=1e6)
        patient.publish(PERIOD, 60_000)
        time.sleep(1)
        assert server.asked == 0
        begun = time.monotonic()
        patient.close()
        assert server.delivered == [60]
        assert time.monotonic() - begun < 10
    assert fallback.timestamps == []
    assert 0 < SEND_JITTER_SECONDS <= 5


def test_the_agent_ends_in_time_and_prints_what_was_not_delivered(
    start: Start, driver: Path, aws_environ: Callable
) -> None:
    snapshot = driver / "gpus.prom"
    with endpoint(seconds=30) as (url, _):
        agent = start(
            "--sink=putmetricdata", "--region=eu-west-1", f"--snapshot={snapshot}", "--publish-seconds=1e6",
            environ=aws_environ(url),
        )  # fmt: skip
        wait_until(snapshot.exists)
        begun = time.monotonic()
        assert agent.finish() == 0
        assert time.monotonic() - begun < 10
    assert agent.values("GpuUtilization", 0)
    assert agent.messages() == []


def test_off_publishes_nothing_and_keeps_the_snapshot(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    agent = start("--sink=off", f"--snapshot={snapshot}")
    wait_until(snapshot.exists)
    time.sleep(0.7)
    assert agent.finish() == 0
    assert agent.lines() == []
