"""Many requests at once: batches, a full queue, deadlines, /ping beside them, and figures that add up."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests


def test_requests_that_wait_go_through_the_model_together(start_server):
    server = start_server(MAX_BATCH=4)
    with ThreadPoolExecutor(20) as pool:
        blocker = pool.submit(server.invoke, {"sleep": 1})
        server.wait_for_metric("inference_in_flight_requests", 1)
        answers = [pool.submit(server.invoke, [n]) for n in range(8)]
        server.wait_for_metric("inference_queue_depth", 8)
        assert [answer.result().json() for answer in answers] == [[2 * n] for n in range(8)]
        assert blocker.result().json() == [1]
    figures = server.metrics()
    assert figures["inference_batch_size_sum"] == 9
    assert figures["inference_batch_size_count"] == 3
    assert figures["inference_queue_depth"] == 0
    assert figures["inference_in_flight_requests"] == 0


def test_a_poisoned_request_fails_alone(start_server):
    server = start_server()
    with ThreadPoolExecutor(20) as pool:
        blocker = pool.submit(server.invoke, {"sleep": 1})
        server.wait_for_metric("inference_in_flight_requests", 1)
        answers = [pool.submit(server.invoke, [1e7 if n == 3 else n]) for n in range(6)]
        server.wait_for_metric("inference_queue_depth", 6)
        statuses = [answer.result().status_code for answer in answers]
        assert blocker.result().status_code == 200
    assert statuses == [200, 200, 200, 500, 200, 200]


def test_requests_that_end_their_threads_leave_enough_for_others(start_server):
    server = start_server(MAX_QUEUE=1)
    for _ in range(30):  # more than there are threads
        with pytest.raises(requests.ConnectionError):
            server.invoke({"exit": 1})
    assert server.invoke([1]).json() == [2]
    assert "SystemExit: 1" in server.log


def test_a_full_queue_refuses_at_once_and_ping_answers_beside_it(start_server):
    server = start_server(MAX_QUEUE=4)
    with ThreadPoolExecutor(40) as pool:
        running = [pool.submit(server.invoke, {"sleep": 6})]
        server.wait_for_metric("inference_batch_size_count", 1)
        running += [pool.submit(server.invoke, {"sleep": 0}) for _ in range(3)]
        server.wait_for_metric("inference_queue_depth", 3)
        crowd = [pool.submit(server.post, b" " * 1_000_000) for _ in range(30)]
        pings = []
        while not all(answer.done() for answer in crowd) or len(pings) < 10:
            sent = time.monotonic()
            assert server.ping()[0] == 200
            pings.append(time.monotonic() - sent)
        assert max(pings) < 2
        assert not running[0].done()  # so all were refused while the queue was full
        assert {answer.result().status_code for answer in crowd} == {503}
        assert crowd[0].result().headers["Retry-After"] == "1"
        assert crowd[0].result().json()["max_queue"] == 4
        assert [answer.result().status_code for answer in running] == [200] * 4


def test_a_request_past_its_deadline_is_504_and_spares_the_model(start_server):
    server = start_server(REQUEST_TIMEOUT_SECONDS=1)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.invoke, {"sleep": 4})
        server.wait_for_metric("inference_batch_size_count", 1)
        sent = time.monotonic()
        waiting = server.invoke([1])
        took = time.monotonic() - sent
    assert waiting.status_code == running.result().status_code == 504
    assert "REQUEST_TIMEOUT_SECONDS" in waiting.json()["message"]
    assert 0.9 < took < 3.9  # before the model is free
    time.sleep(3.2)  # until the model is free again
    assert server.invoke([1]).json() == [2]
    assert server.metrics()["inference_batch_size_sum"] == 2


def test_the_model_is_spared_the_request_of_a_client_that_went_away(start_server):
    server = start_server()
    request = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(server.invoke, {"sleep": 3})
        server.wait_for_metric("inference_batch_size_count", 1)
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(request)
            server.wait_for_metric("inference_queue_depth", 1)
        server.wait_for_metric('inference_requests_total{code="499"}', 1)
        assert not running.done()
        assert running.result().json() == [3]
    assert server.invoke([1]).json() == [2]
    assert server.metrics()["inference_batch_size_sum"] == 2
    assert "the client went away while its request waited" in server.log


def test_the_figures_of_two_workers_add_up_whichever_is_asked(start_server):
    server = start_server(SAGEMAKER_MODEL_SERVER_WORKERS=2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(server.invoke, [[1]] * 30 + [{}] * 5))
    assert [answer.status_code for answer in answers].count(200) == 30
    time.sleep(1.5)  # each writes once a second, for the others
    for _ in range(6):
        figures = server.metrics()
        assert figures['inference_requests_total{code="200"}'] == 30
        assert figures['inference_requests_total{code="500"}'] == 5
        assert figures["inference_request_seconds_count"] == 35
        assert figures['inference_stage_seconds_count{stage="decode"}'] == 35
        assert figures['inference_stage_seconds_count{stage="encode"}'] == 30


def test_metrics_end_with_what_the_gpu_sampler_wrote(start_server):
    server = start_server()
    (run_directory,) = (server.base / "tmp").iterdir()
    (run_directory / "gpus.prom").write_text('gpu_power_watts{gpu="0"} 71.5\n')
    assert server.metrics()['gpu_power_watts{gpu="0"}'] == 71.5
    answer = requests.get(f"{server.url}/metrics", timeout=5)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def sockets_of(process):
    """How many a process has open."""
    folder = Path(f"/proc/{process}/fd")
    return sum(str(file.readlink()).startswith("socket:") for file in folder.iterdir())


@pytest.mark.parametrize("attempt", range(3))  # a worker that accepts late does not always do so
def test_clients_that_stay_are_shared_out_among_the_workers(start_server, attempt):
    """Else one of two GPUs has all the work."""
    server = start_server(SAGEMAKER_MODEL_SERVER_WORKERS=2)
    workers = server.children()
    before = [sockets_of(worker) for worker in workers]

    def shares():
        return [sockets_of(worker) - others for worker, others in zip(workers, before, strict=True)]

    with contextlib.ExitStack() as clients:

        def come():
            client = clients.enter_context(requests.Session())
            assert client.get(f"{server.url}/healthz", timeout=10).status_code == 200

        for _ in range(8):  # at once: when the server says that it is ready, all of its workers are there
            come()
        assert min(shares()) >= 1, shares()
        for _ in range(16):
            come()
        assert min(shares()) >= sum(shares()) / 4, shares()
