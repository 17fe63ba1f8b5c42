"""What the log says of requests: each one at debug, those that failed always, /ping never."""

import json
import time

import pytest
import requests


def request_lines(server, request_id):
    return [json.loads(line) for line in server.log.splitlines() if request_id in line]


def invoke(server, value, request_id):
    return server.invoke(value, headers={"X-Amzn-SageMaker-Inference-Id": request_id})


def test_at_debug_each_request_is_one_line_of_json(start_server):
    server = start_server(LOG_LEVEL="DEBUG")
    invoke(server, [1, 2], "first")
    (line,) = request_lines(server, "first")
    assert 0 < line.pop("seconds") < 30
    assert time.strptime(line.pop("time"), "%Y-%m-%dT%H:%M:%SZ")
    assert line == {
        "level": "DEBUG",
        "request_id": "first",
        "method": "POST",
        "path": "/invocations",
        "status": 200,
        "request_type": "application/json",
        "request_bytes": 6,
        "answer_type": "application/json",
        "answer_bytes": 10,
    }


def test_failed_requests_are_there_always_and_ping_is_silent(start_server):
    server = start_server(LOG_LEVEL="INFO", MAX_CONSECUTIVE_FAILURES=1)
    ready = len(server.log.splitlines())
    for path in ("ping", "healthz", "metrics", "execution-parameters"):
        assert requests.get(f"{server.url}/{path}", timeout=5).status_code == 200
    invoke(server, [1], "good")
    assert len(server.log.splitlines()) == ready
    server.post(b"{", {"Content-Type": "application/json", "X-Amzn-SageMaker-Inference-Id": "theirs"})
    invoke(server, {"fail": "cuDNN error: of\nthe model"}, "ours")
    (theirs,), (ours,) = request_lines(server, "theirs"), request_lines(server, "ours")
    assert (theirs["status"], theirs["level"]) == (400, "INFO")
    assert theirs["error"].startswith("Expecting property name")
    assert (ours["status"], ours["level"]) == (500, "ERROR")
    assert ours["error"] == "RuntimeError: cuDNN error: of\nthe model"
    assert ours["traceback"].startswith("Traceback")
    assert server.ping()[0] == 503
    assert len(server.log.splitlines()) == ready + 2


@pytest.mark.parametrize("request_id", ['"}, {"', "a\tb"])
def test_a_request_cannot_write_lines_of_its_own(shared_server, request_id):
    shared_server.post(b"", {"Content-Type": "image/gif", "X-Amzn-SageMaker-Inference-Id": request_id})
    assert json.loads(shared_server.log.splitlines()[-1])["status"] == 415
