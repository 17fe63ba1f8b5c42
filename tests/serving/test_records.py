"""Requests of many inputs: JSON lines of batch transform, and what becomes of the wrong ones."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

LINES = {"Content-Type": "application/jsonlines"}
STREAM = {**LINES, "X-Amzn-SageMaker-Forwarded-Api": "InvokeEndpointWithResponseStream"}


@pytest.fixture(scope="module")
def lenient_server(start_server):
    return start_server(ERROR_RECORDS="on")


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_line_goes_out_for_each_that_comes_in(shared_server, end):
    body = b"\n".join(b"[%d, 1]" % number for number in range(100)) + end
    answer = shared_server.post(body, {**LINES, "Accept": "application/jsonlines"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/jsonlines"
    lines = answer.text.split("\n")
    assert [json.loads(line) for line in lines] == [[2 * number, 2] for number in range(100)]


def test_lines_share_batches(start_server):
    server = start_server(MAX_BATCH=4)
    assert server.post(b'{"sleep": 0.5}\n' + b"[1]\n" * 8, LINES).text.count("\n") == 8
    figures = server.metrics()
    assert figures["inference_batch_size_sum"] == 9
    assert figures["inference_batch_size_count"] < 6


def test_an_answer_that_is_not_json_is_wrapped(shared_server):
    answer = shared_server.post(b"[1]\n[2]", {**LINES, "Accept": "text/csv;header=present"})
    assert answer.headers["Content-Type"] == "application/jsonlines"
    first, second = map(json.loads, answer.text.split("\n"))
    assert first == {"content_type": "text/csv;header=present", "b64": "ZG91YmxlZAoyLjA="}
    assert second["content_type"] == "text/csv;header=present"


def test_no_lines_are_no_lines(shared_server):
    answer = shared_server.post(b"", LINES)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("wrong", [b"{", b"", b'["a"]'])
def test_a_wrong_line_fails_the_request_and_is_named(shared_server, wrong):
    answer = shared_server.post(b"[1]\n" + wrong + b"\n[3]", LINES)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("record 2: ")


def test_a_failing_model_fails_the_request(shared_server):
    assert shared_server.post(b"[1]\n[1e7]\n[3]", LINES).status_code == 500


def test_error_records_stand_where_the_answer_would(lenient_server):
    answer = lenient_server.post(b"[1]\n{\n[3]\n\n[4]", LINES)
    assert answer.status_code == 200
    lines = [json.loads(line) for line in answer.text.split("\n")]
    assert [lines[0], lines[2], lines[4]] == [[2], [6], [8]]
    assert [lines[number]["status"] for number in (1, 3)] == [400, 400]
    assert "Expecting" in lines[1]["message"]


def test_an_error_record_stands_for_a_whole_object_too(lenient_server):
    answer = lenient_server.post(b"{", {"Content-Type": "application/json", "Accept": "text/csv"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["status"] == 400
    # What is not about the bytes of one object is no record: it should be tried again, or be mended.
    assert lenient_server.invoke([1e7]).status_code == 500
    assert lenient_server.post(b"[1]", {"Content-Type": "image/gif"}).status_code == 415


def test_a_client_that_takes_a_stream_has_each_line_when_it_is_answered(start_server):
    server = start_server(MAX_BATCH=1)
    body = b"[1]\n" * 2 + b'{"sleep": 2}\n' + b"[4]"
    began = time.monotonic()
    with requests.post(f"{server.url}/invocations", body, headers=STREAM, stream=True, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["Transfer-Encoding"] == "chunked"
        chunks = answer.iter_content(None)
        assert next(chunks) == b"[2.0]"
        assert time.monotonic() - began < 1.5
        assert b"".join(chunks) == b"\n[2.0]\n[2]\n[8.0]"
        assert time.monotonic() - began > 2
    server.wait_for_metric("inference_in_flight_requests", 0)


def test_a_client_that_takes_a_stream_has_all_of_a_large_line_before_the_next(start_server):
    """More than the kernel keeps for it."""
    server = start_server(MAX_BATCH=1)
    body = b'{"zeros": 4000000}\n{"sleep": 4}\n[4]'
    with requests.post(f"{server.url}/invocations", body, headers=STREAM, stream=True, timeout=30) as answer:
        began = time.monotonic()
        chunks = answer.iter_content(1_000_000)
        assert sum(len(next(chunks)) for _ in range(20)) == 20_000_000 == len(json.dumps([0.0] * 4_000_000))
        assert time.monotonic() - began < 3
        assert b"".join(chunks) == b"\n[4]\n[8.0]"


@pytest.mark.slow
def test_a_stream_that_nobody_takes_is_given_up_and_its_place_is_free_again(start_server):
    server = start_server(MAX_BATCH=1, MAX_QUEUE=1, REQUEST_TIMEOUT_SECONDS=60)
    body = b'{"zeros": 4000000}\n{"sleep": 30}\n[4]'
    with requests.post(f"{server.url}/invocations", body, headers=STREAM, stream=True, timeout=30):
        server.wait_for_metric("inference_in_flight_requests", 0, seconds=25)
    assert "the client does not take its answer" in server.log


def test_a_stream_that_fails_breaks_off_and_another_one_can_be_asked_for(start_server):
    server = start_server(MAX_BATCH=1)
    assert server.post(b"{\n[1]", STREAM).json()["message"].startswith("record 1: ")
    for _ in range(5):
        with requests.post(
            f"{server.url}/invocations", b"[1]\n[2]\n[3]\n{\n[1]", headers=STREAM, stream=True, timeout=30
        ) as answer:
            assert answer.status_code == 200
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                list(answer.iter_content(None))
    with requests.post(f"{server.url}/invocations", b"[1]\n" * 500, headers=STREAM, stream=True) as answer:
        next(answer.iter_content(1))  # and leaves
    server.wait_for_metric("inference_in_flight_requests", 0)
    assert server.post(b"[1]\n[2]", STREAM).text == "[2.0]\n[4.0]"
    assert "record 4: " in server.log


def test_what_a_stream_broke_off_of_is_the_models_and_not_the_clients(start_server):
    server = start_server(MAX_BATCH=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        server.post(b'[1]\n[2]\n{"file": "/nothing"}\n[4]', STREAM)
    assert "FileNotFoundError" in server.log
    assert "record 3" in server.log
    assert "the client went away" not in server.log


def test_lines_past_the_deadline_are_504_and_spare_the_model(start_server):
    server = start_server(REQUEST_TIMEOUT_SECONDS=1)
    with ThreadPoolExecutor() as pool:
        pool.submit(server.invoke, {"sleep": 1.8})
        server.wait_for_metric("inference_batch_size_count", 1)
        answer = server.post(b"[1]\n" * 6, LINES)
    assert answer.status_code == 504
    assert answer.json()["message"].startswith("record 1: ")
    end = time.monotonic() + 10
    while server.invoke([1]).status_code != 200:
        assert time.monotonic() < end
    assert server.metrics()["inference_batch_size_sum"] == 2
