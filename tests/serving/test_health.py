"""/ping over a server's life: loading, ready, failing, draining, and workers that die."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests


def test_ping_is_503_while_the_model_loads_and_200_after(start_server):
    server = start_server(model={"factor": 2, "load_seconds": 3}, ready=False)
    status, body = server.wait_for("loading")
    assert status == 503
    assert 0 <= body["uptime_seconds"] < 30
    early = server.invoke([1])
    assert early.status_code == 503
    assert "loading" in early.json()["message"]
    assert early.headers["Retry-After"] == "1"
    status, body = server.wait_for("ready")
    assert status == 200
    assert body["uptime_seconds"] >= 1.5
    assert server.invoke([1]).json() == [2]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_ping_takes_every_method_that_a_prober_may_use(start_server, method):
    """By the main loop alone: the first thread for a request is that of /metrics."""
    server = start_server(AIP_HEALTH_ROUTE="/health")
    for path in ("/ping", "/health", "/health?a=b", "/healthz"):
        if (method, path) != ("POST", "/healthz"):
            answer = requests.request(
                method, f"{server.url}{path}", data=b"x" if method == "POST" else None, timeout=5
            )
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "application/json"

    def threads():
        return int(
            re.search(r"Threads:\s+(\d+)", Path(f"/proc/{server.children()[0]}/status").read_text())[1]
        )

    before = threads()
    server.metrics()
    assert threads() == before + 1


def test_all_workers_are_ready_before_the_server_is(start_server):
    """The worker that is ready answers for the other too, whose load takes its time."""
    server = start_server(
        model={"factor": 2, "load_seconds": 1.0}, ready=False, SAGEMAKER_MODEL_SERVER_WORKERS=2
    )
    while len(server.children()) < 2:
        time.sleep(0.01)
    second = server.children()[1]
    os.kill(second, signal.SIGSTOP)
    try:
        status, body = server.wait_for("waiting")
        assert status == 503
        assert body["reason"] == "1 of 2 workers are ready"
    finally:
        os.kill(second, signal.SIGCONT)
    assert server.wait_for("ready")[0] == 200


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "[ONNXRuntimeError] : 1 : FAIL : CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
    ],
)
def test_failures_of_the_device_in_a_row_make_ping_fail_until_a_prediction_succeeds(start_server, said):
    server = start_server(MAX_CONSECUTIVE_FAILURES=3)
    failing = {"fail": said}
    assert server.invoke(failing).status_code == 500
    assert server.invoke(failing).status_code == 500
    assert server.invoke([1]).status_code == 200
    for _ in range(2):
        server.invoke(failing)
    assert server.ping()[0] == 200
    assert server.invoke(failing).status_code == 500
    status, body = server.ping()
    assert (status, body["state"]) == (503, "failing")
    assert said in body["reason"]
    assert server.invoke([1]).status_code == 200
    assert server.ping()[0] == 200


def test_pictures_that_the_model_fails_on_never_make_ping_fail(start_server):
    server = start_server(MAX_CONSECUTIVE_FAILURES=1)
    for poisoned in ([1e7], {"fail": "The size of tensor a (3) must match that of b (4)"}, {}):
        for _ in range(3):
            assert server.invoke(poisoned).status_code == 500
    assert server.ping()[0] == 200


@pytest.mark.parametrize(
    "said", ["CUDA error: an illegal memory access", "CUDA failure 700: an illegal memory access"]
)
def test_a_cuda_error_makes_ping_fail_at_once_and_for_good(start_server, said):
    server = start_server()
    assert server.invoke({"fail": said}).status_code == 500
    assert server.ping()[1]["state"] == "failing"
    server.invoke([1])
    assert server.ping()[1]["state"] == "failing"
    assert "illegal memory access" in server.ping()[1]["reason"]


def test_a_prediction_that_hangs_makes_ping_fail_until_one_succeeds(start_server):
    """No error comes from a device that hangs; the requests that wait for it see it."""
    server = start_server(REQUEST_TIMEOUT_SECONDS=1, CUDA_VISIBLE_DEVICES="GPU-a")
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(server.invoke, {"sleep": 2.5})
        assert stuck.result().status_code == 504
        assert server.ping()[0] == 200  # slow, so far
        assert server.invoke([1]).status_code == 504
    status, body = server.ping()
    assert (status, body["state"]) == (503, "failing")
    assert "running for 2 s" in body["reason"]
    end = time.monotonic() + 10
    while server.invoke([1]).status_code != 200:
        assert time.monotonic() < end
    assert server.ping()[0] == 200


def test_a_prediction_that_takes_long_on_a_cpu_does_not(start_server):
    """A huge picture is slow there; another instance would be no quicker."""
    server = start_server(REQUEST_TIMEOUT_SECONDS=1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(server.invoke, {"sleep": 3})
        assert slow.result().status_code == 504
        assert server.invoke([1]).status_code == 504  # while it has been running for twice the time
    assert server.ping()[0] == 200


def test_ping_tells_what_is_served_and_where(start_server):
    body = start_server().ping()[1]
    assert (body["model"], body["device"]) == ("doubling", "cpu")
    server = start_server(CUDA_VISIBLE_DEVICES="GPU-a,GPU-b")
    assert {server.ping()[1]["device"] for _ in range(40)} == {"cuda GPU-a", "cuda GPU-b"}


def test_the_clients_mistakes_never_make_ping_fail(start_server):
    server = start_server(MAX_CONSECUTIVE_FAILURES=1)
    for _ in range(3):
        assert server.post(b"{", {"Content-Type": "application/json"}).status_code == 400
        assert server.post(b"", {"Content-Type": "image/gif"}).status_code == 415
    assert server.ping()[0] == 200


def test_a_broken_worker_is_known_to_the_others(start_server):
    server = start_server(SAGEMAKER_MODEL_SERVER_WORKERS=2)
    server.invoke({"fail": "CUDA error: device lost"})
    states = {server.ping()[1]["state"] for _ in range(20)}
    assert states <= {"failing", "waiting"}


def test_a_worker_that_dies_is_replaced_three_times_then_the_container_ends(start_server):
    server = start_server()
    for _ in range(3):
        (worker,) = server.children()
        os.kill(worker, signal.SIGKILL)
        server.wait_for("ready")
        end = time.monotonic() + 10
        while server.children() in ([], [worker]):
            assert time.monotonic() < end
            time.sleep(0.05)
        server.wait_for("ready")
    assert server.invoke([1]).json() == [2]
    (worker,) = server.children()
    os.kill(worker, signal.SIGKILL)
    assert server.exit_code() == 1
    assert "died 4 times" in server.log.splitlines()[-1]


def test_a_replacement_takes_no_requests_while_its_model_loads(start_server):
    """As long as another worker is there; each request is on a connection of its own."""
    server = start_server(model={"factor": 2, "load_seconds": 2}, SAGEMAKER_MODEL_SERVER_WORKERS=2)
    os.kill(server.children()[0], signal.SIGKILL)
    while server.ping()[0] == 200:
        time.sleep(0.01)
    answered = 0
    while server.ping()[0] != 200:
        assert server.invoke([1]).status_code == 200
        answered += 1
    assert answered > 10


def test_a_worker_that_is_being_replaced_is_missed(start_server):
    server = start_server(model={"factor": 2, "load_seconds": 1}, SAGEMAKER_MODEL_SERVER_WORKERS=2)
    os.kill(server.children()[0], signal.SIGKILL)
    end = time.monotonic() + 5
    while server.ping()[0] == 200:
        assert time.monotonic() < end
    # Whoever answers, the old worker or the new one: a worker is missing.
    assert {server.ping()[0] for _ in range(10)} == {503}
    server.wait_for("ready")


def test_the_figures_of_a_dead_worker_do_not_stay(start_server):
    server = start_server()
    with ThreadPoolExecutor() as pool:
        cut = pool.submit(server.invoke, {"sleep": 10})
        server.wait_for_metric("inference_in_flight_requests", 1)
        os.kill(server.children()[0], signal.SIGKILL)
        with pytest.raises(requests.ConnectionError):
            cut.result()
    server.wait_for("ready")
    server.wait_for_metric("inference_in_flight_requests", 0)


def test_sigterm_fails_ping_at_once_and_lets_running_requests_end(start_server):
    server = start_server()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.invoke, {"sleep": 5})
        server.wait_for_metric("inference_in_flight_requests", 1)
        server.process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        status, _ = server.wait_for("draining", seconds=1)
        assert status == 503
        # Whoever has not heard yet may still come for a moment, is told to go away later, never cut.
        assert not running.done()
        late = pool.submit(server.invoke, [1])
        time.sleep(2.5)
        refused = server.invoke([1])
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["message"]
        assert running.result().status_code == 200
        assert running.result().json() == [5]
        assert late.result().json() == [2]
    assert server.exit_code(10) == 0
    assert time.monotonic() - stopped < 12


def test_sigterm_while_loading_ends_the_container_soon(start_server):
    server = start_server(model={"factor": 2, "load_seconds": 20}, ready=False)
    server.wait_for("loading")
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code(5) == 0
