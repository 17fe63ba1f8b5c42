"""One request at a time: media types, bodies, and every way in which a request can be refused."""

import http.client
import io
import json
import socket

import numpy as np
import pytest
import requests

JSON = {"Content-Type": "application/json"}


def npy(values):
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def assert_is_error(answer, status, *said):
    """Short JSON, whatever happened."""
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert len(answer.content) < 2048
    assert "Traceback" not in answer.text
    body = answer.json()
    assert body["request_id"] == answer.headers["X-Amzn-SageMaker-Inference-Id"]
    for text in said:
        assert text in answer.text
    return body


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"[1, 2]"),
        ("Application/JSON; charset=utf-8", b"[1, 2]"),
        ("application/x-npy", npy([1, 2])),
        (None, b"[1, 2]"),
        (None, npy([1, 2])),
        ("application/octet-stream", npy([1, 2])),
        ("application/x-www-form-urlencoded", b"[1, 2]"),
        ("application/octet-stream; q=1", b"[1, 2]"),
    ],
)
def test_content_type_is_parsed_and_sniffed_where_it_says_nothing(shared_server, content_type, body):
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = shared_server.post(body, headers)
    assert (answer.status_code, answer.json()) == (200, [2, 4])


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/*", "text/csv"),
        ("text/csv;header=present", "text/csv;header=present"),
        ("text/csv; header=present", "text/csv;header=present"),
        ("application/json;q=0.1, text/csv;q=0.9", "text/csv"),
        ("image/png, text/csv;q=0.5", "text/csv"),
        ("text/csv, */*;q=0.1", "text/csv"),
        ("application/json;q=0, */*", "text/csv"),
    ],
)
def test_accept_chooses_the_answer(shared_server, accept, answered):
    answer = shared_server.post(b"[1]", {**JSON, "Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, answered)
    expected = {"application/json": "[2.0]", "text/csv": "2.0", "text/csv;header=present": "doubled\n2.0"}
    assert answer.text == expected[answered]


@pytest.mark.parametrize(
    ("accept", "answered"),
    [(None, "text/csv"), ("*/*", "text/csv"), ("application/json", "application/json")],
)
def test_the_default_answer_can_be_set(csv_server, accept, answered):
    answer = csv_server.post(b"[1]", {**JSON, "Accept": accept})
    assert answer.headers["Content-Type"] == answered


def test_an_unknown_content_type_is_415_with_the_known_ones(shared_server):
    body = assert_is_error(
        shared_server.post(b"x" * 1_000_000, {"Content-Type": "image/gif"}), 415, "image/gif"
    )
    assert body["supported"] == ["application/json", "application/x-npy", "application/jsonlines"]


@pytest.mark.parametrize(
    "accept", ["image/png", "application/json;q=0", "text/csv;header=absent", "nonsense"]
)
def test_an_impossible_accept_is_406_with_the_possible_ones(shared_server, accept):
    body = assert_is_error(shared_server.post(b"[1]", {**JSON, "Accept": accept}), 406)
    assert body["supported"] == ["application/json", "text/csv", "text/csv;header=present"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b'["a"]'])
def test_bytes_that_the_model_cannot_decode_are_400(shared_server, body):
    assert_is_error(shared_server.post(body, JSON), 400)


def test_a_pickle_in_a_npy_is_400(shared_server):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert_is_error(shared_server.post(file.getvalue(), {"Content-Type": "application/x-npy"}), 400, "pickle")


def test_the_model_may_choose_a_finer_status_than_400(shared_server):
    assert_is_error(shared_server.post(str([1] * 1001).encode(), JSON), 413, "1001 numbers")


def test_unknown_paths_and_methods_are_told_the_known_ones(shared_server):
    body = assert_is_error(requests.get(f"{shared_server.url}/nothing", timeout=5), 404)
    assert body["paths"] == ["/execution-parameters", "/healthz", "/invocations", "/metrics", "/ping"]
    answer = requests.get(f"{shared_server.url}/invocations", timeout=5)
    assert_is_error(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_a_failure_inside_the_model_is_500_with_a_key_to_the_log_and_no_more(shared_server):
    answer = shared_server.invoke(
        {"fail": "secret\nof the model"}, headers={"X-Amzn-SageMaker-Inference-Id": "id-42"}
    )
    body = assert_is_error(answer, 500)
    assert "secret" not in answer.text
    assert body["request_id"] == "id-42"
    (line,) = [line for line in shared_server.log.splitlines() if "id-42" in line]
    assert json.loads(line)["error"] == "RuntimeError: secret\nof the model"
    shared_server.invoke([1])


def test_a_long_message_is_cut_to_what_a_client_sees(shared_server):
    assert_is_error(
        shared_server.post(b"[1]", {**JSON, "Accept": "image/" + 'é"'.encode().decode("latin-1") * 900}), 406
    )


def test_servers_whose_model_seeds_python_give_different_ids(shared_server, start_server):
    def ids(server):
        return {server.invoke([1]).headers["X-Amzn-SageMaker-Inference-Id"] for _ in range(100)}

    assert len(ids(shared_server) | ids(start_server())) == 200
    two_workers = start_server(SAGEMAKER_MODEL_SERVER_WORKERS=2)
    assert len(ids(two_workers)) == 100


def test_the_request_id_and_the_attributes_are_the_callers(shared_server):
    headers = {"X-Amzn-SageMaker-Inference-Id": "mine", "X-Amzn-SageMaker-Custom-Attributes": "c=1, d"}
    for value, status in (([1], 200), ({}, 500)):
        answer = shared_server.invoke(value, headers=headers)
        assert answer.status_code == status
        assert answer.headers["X-Amzn-SageMaker-Inference-Id"] == "mine"
        assert answer.headers["X-Amzn-SageMaker-Custom-Attributes"] == "c=1, d"
    plain = [shared_server.invoke([1]).headers for _ in range(3)]
    assert len({headers["X-Amzn-SageMaker-Inference-Id"] for headers in plain}) == 3
    assert not any("X-Amzn-SageMaker-Custom-Attributes" in headers for headers in plain)


@pytest.mark.parametrize("value", ["caf\xe9", "x" * 2000])
def test_a_header_that_cannot_go_back_harms_nobody(shared_server, value):
    headers = {"X-Amzn-SageMaker-Inference-Id": value, "X-Amzn-SageMaker-Custom-Attributes": value}
    answer = shared_server.invoke([1], headers=headers)
    assert answer.json() == [2]
    expected = "".join(character for character in value if " " <= character <= "~")[:64]
    assert expected in answer.headers["X-Amzn-SageMaker-Inference-Id"]
    assert "X-Amzn-SageMaker-Custom-Attributes" not in answer.headers


def test_a_chunked_body_that_is_cut_never_reaches_the_model(shared_server):
    head = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for body in (b"3\r\n[1]\r\n", b"3\r\n[1]", b"5\r\n[1]", b"3"):
        with socket.create_connection(("127.0.0.1", shared_server.port), timeout=5) as client:
            client.sendall(head + body)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 400"), (body, answer)


def test_what_the_bytes_show_wins_over_the_header(shared_server):
    """A batch transform job has one Content-Type for whatever its prefix holds."""
    assert shared_server.post(npy([1, 2]), JSON).json() == [2, 4]


def test_a_body_in_chunks_is_read_to_its_end(shared_server):
    answer = shared_server.post(iter([b"[1,", b" 2", b"]"]), JSON)
    assert answer.json() == [2, 4]


def test_a_client_that_waits_for_100_continue_gets_it(shared_server):
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=5) as client:
        client.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        client.sendall(b"[1]")
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"[2.0]")


def test_a_connection_is_kept_also_after_a_refusal(shared_server):
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=5)
    statuses = []
    for kind in ["application/json", "image/gif", "application/json"]:
        connection.request("POST", "/invocations", b"[" + b" " * 500_000 + b"1]", {"Content-Type": kind})
        port = connection.sock.getsockname()[1]
        answer = connection.getresponse()
        answer.read()
        statuses.append((answer.status, port))
    connection.close()
    assert [status for status, _ in statuses] == [200, 415, 200]
    assert len({port for _, port in statuses}) == 1


def test_the_largest_real_time_request_fits(shared_server):
    assert shared_server.post(b"[" + b" " * (25 * 2**20) + b"1]", JSON).json() == [2]


def test_a_body_that_ends_early_never_reaches_the_model(shared_server):
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=5) as client:
        client.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10\r\n\r\n[1]"
        )
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"after 3 of 10 bytes" in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_and_not_a_broken_connection(csv_server, chunked):
    fits = b"[" + b" " * (2**20 - 3) + b"1]"
    assert csv_server.post(fits, JSON).status_code == 200
    large = b" " * (8 * 2**20)
    body = assert_is_error(csv_server.post(iter([large]) if chunked else large, JSON), 413, "MAX_BODY_MB")
    assert body["max_body_bytes"] == 2**20


@pytest.mark.parametrize(
    "head",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 10_000 + b"\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nnot a length\r\n",
    ],
)
def test_broken_http_is_answered_in_json_too(shared_server, head):
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=5) as client:
        client.sendall(head)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 400
        assert answer.headers["Content-Type"] == "application/json"
        assert b"Traceback" not in answer.read()


def test_an_input_for_which_there_is_no_memory_is_refused_and_others_are_not(start_server):
    server = start_server()
    answer = server.post(b'{"bytes": 1e15}', {"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "memory" in answer.json()["message"]
    answer = server.post(b'{"bytes": 1000}', {"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, [1000.0])
