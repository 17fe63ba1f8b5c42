"""What the workers tell of their requests comes out of a server's log as metrics."""

import concurrent.futures
import json
import os
import signal
import time
from pathlib import Path

import pytest

import emf_validator
import nvml
from serving import drift
from serving.work_report import milliseconds

EXPECTED_OF_MODEL = 0.3


@pytest.fixture
def driver(tmp_path):
    return nvml.build(tmp_path / "driver")


def published(server):
    """The metrics of a server that was stopped: each with its values under the endpoint's own dimensions.

    Those of a server that ran past a whole minute come in two parts, one of each minute.
    """
    lines = [line.encode() for line in server.log.splitlines(keepends=True) if line.startswith('{"_aws')]
    values = {}
    for datum in (datum for line in lines for datum in emf_validator.read(line)):
        if "Endpoint" in datum.dimensions:
            values.setdefault(datum.name, []).extend(datum.values)
    return values


def stop(server):
    server.process.terminate()
    assert server.exit_code() == 0


def wait_for_a_minute_with_time_left(seconds=20):
    """What the server did is published by the minute, and this test looks at it together."""
    if (left := 60 - time.time() % 60) < seconds:
        time.sleep(left)


def test_requests_of_all_workers_become_metrics(start_server, driver):
    wait_for_a_minute_with_time_left()
    server = start_server(
        GPU_METRICS="on",
        ENDPOINT_NAME="normals",
        VARIANT_NAME="AllTraffic",
        INSTANCE_USD_PER_HOUR="36",
        SAGEMAKER_MODEL_SERVER_WORKERS=2,
        LD_LIBRARY_PATH=driver,
    )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(server.invoke, [{"sleep": EXPECTED_OF_MODEL}] * 6 + [[1, 2]] * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert server.invoke({"fail": "out of order"}).status_code == 500
    assert server.invoke("no list").status_code in (400, 500)
    time.sleep(1.2)
    assert server.invoke([3]).status_code == 200  # and at once the end: it counts all the same
    stop(server)
    values = published(server)

    assert sum(values["Requests"]) == 13
    assert sum(values["RequestErrors"]) >= 1
    model_seconds = 6 * EXPECTED_OF_MODEL
    # The requests overlap in two workers, and may share batches, in which their sleeps add up.
    assert max(values["PredictMilliseconds"]) >= 1000 * EXPECTED_OF_MODEL
    assert max(values["RequestMilliseconds"]) >= 1000 * EXPECTED_OF_MODEL
    assert max(values["QueueMilliseconds"]) < 1000 * model_seconds
    assert min(values["BatchSize"]) >= 1
    assert max(values["InFlightRequests"]) <= 4
    assert {"DecodeMilliseconds", "EncodeMilliseconds", "GpuUtilization"} <= values.keys()
    # Over the minutes, each with its requests, this adds up to the model's seconds.
    minutes = [requests for requests in values["Requests"] if requests]
    seconds = sum(a * b for a, b in zip(values["GpuSecondsPerRequest"], minutes, strict=True))
    assert model_seconds <= seconds < 2 * model_seconds
    # Ten dollars for 1,000 seconds, 13 requests in the few seconds that the server ran.
    assert all(0 < dollars < 600 for dollars in values["CostPer1000"])
    assert set(values["WastedUsd"]) == {0}


def test_percentiles_are_of_requests_and_not_of_seconds(start_server):
    """Of 30 requests at once, half take 100 ms: means of seconds would say that all take about 50."""
    server = start_server(
        GPU_METRICS="on", ENDPOINT_NAME="normals", MAX_BATCH=1, SAGEMAKER_MODEL_SERVER_WORKERS=1
    )
    for number in range(30):
        assert server.invoke({"sleep": 0.1} if number % 2 else [1]).status_code == 200
    stop(server)
    predicted = published(server)["PredictMilliseconds"]
    assert len(predicted) == 30
    assert len([value for value in predicted if value >= 100]) == 15
    assert len(published(server)["RequestMilliseconds"]) == 30


def test_very_many_requests_of_a_second_are_thinned_evenly():
    times = {"request": [number / 1000 for number in range(1, 501)], "queue": [0.0123456], "decode": []}
    told = milliseconds(times)
    assert told.keys() == {"request_milliseconds", "queue_milliseconds"}
    assert told["request_milliseconds"] == list(range(1, 501, 25))
    assert told["queue_milliseconds"] == [12.35]


def test_without_metrics_there_is_no_process_no_line_and_no_figure_of_a_gpu(start_server, driver):
    server = start_server(GPU_METRICS="off", ENDPOINT_NAME="normals", LD_LIBRARY_PATH=driver)
    assert server.invoke([1]).status_code == 200
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.children()]
    assert not any(b"metrics.agent" in command for command in commands)
    assert not [series for series in server.metrics() if series.startswith("gpu_")]
    stop(server)
    assert '"_aws"' not in server.log
    assert not (driver / "initialised").exists()


def test_the_figures_of_an_agent_that_died_are_served_no_more(start_server, driver):
    server = start_server(GPU_METRICS="on", LD_LIBRARY_PATH=driver)
    server.wait_for_metric('gpu_utilization_ratio{gpu="0"}', 0.5)
    (agent,) = [
        pid for pid in server.children() if b"metrics.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(agent, signal.SIGKILL)
    (file,) = server.base.glob("tmp/*/gpus.prom")
    time.sleep(0.2)
    assert 'gpu_utilization_ratio{gpu="0"}' in server.metrics()
    old = time.time() - 31
    os.utime(file, (old, old))
    assert not [series for series in server.metrics() if series.startswith("gpu_")]
    assert "inference_in_flight_requests" in server.metrics()
    stop(server)


def test_a_waiting_server_counts_no_requests_and_knows_nothing_of_their_times(start_server):
    server = start_server(GPU_METRICS="on", ENDPOINT_NAME="normals")
    time.sleep(1.2)
    stop(server)
    values = published(server)
    assert values.keys() == {"Requests", "RequestErrors", "InFlightRequests"}
    assert {value for of_one in values.values() for value in of_one} == {0}


def test_requests_unlike_what_the_model_was_measured_on(start_server, driver):
    reference = {"first": {"edges": [10.0], "counts": [200, 200]}, "same": {"edges": [], "counts": [400]}}
    server = start_server(
        model={"factor": 1, "reference": reference},
        GPU_METRICS="on",
        ENDPOINT_NAME="normals",
        LD_LIBRARY_PATH=driver,
    )
    end = time.monotonic() + 1.2 * drift.MIN_COUNT * drift.SECONDS_BETWEEN_LOOKS + 1
    while time.monotonic() < end:
        assert server.invoke([30]).status_code == 200
    stop(server)
    values = published(server)
    assert min(values["DriftPsi"]) == 0
    assert max(values["DriftPsi"]) > 1
    assert set(values["DriftKs"]) == {0, 0.5}
    [told] = [json.loads(line) for line in server.log.splitlines() if '"event": "drift"' in line]
    assert told["inputs"] >= drift.MIN_COUNT
    assert list(told["figures"]) == ["first", "same"]
    assert told["figures"]["same"] == {"psi": 0.0, "ks": 0.0}
