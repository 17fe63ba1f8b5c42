"""Clients that send little or nothing, and how little that is to the others."""

import contextlib
import http.client
import json
import signal
import socket
import time

import pytest

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 3\r\n\r\n[1]"
LARGE = HEAD + b"Content-Length: 200000\r\n\r\n[1" + b" " * 199_997 + b"]"


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def answer_of(client):
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read()


@pytest.mark.parametrize(
    ("request_bytes", "sent_bytes"),
    [(WHOLE, 0), (WHOLE, 20), (WHOLE, len(WHOLE) - 1), (LARGE, 1000)],
    ids=["silent", "half a head", "half a body", "little of a large body"],
)
def test_two_hundred_that_go_no_further_stop_nobody(start_server, request_bytes, sent_bytes):
    server = start_server()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(200)]
        for client in clients:
            client.sendall(request_bytes[:sent_bytes])
        for _ in range(20):
            sent = time.monotonic()
            assert server.ping()[0] == 200
            assert server.invoke([1]).json() == [2]
            assert time.monotonic() - sent < 10
        clients[-1].sendall(request_bytes[sent_bytes:])
        assert answer_of(clients[-1]) == (200, b"[2.0]")


def test_ping_needs_no_thread(start_server):
    """All threads wait for the rest of bodies that nobody sends."""
    server = start_server(MAX_QUEUE=1)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(server)).sendall(LARGE[:100_000])
        held = stack.enter_context(connect(server))
        held.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        held.settimeout(1)
        with pytest.raises(TimeoutError):
            held.recv(1)
        for path in ("/ping", "/healthz"):
            client = stack.enter_context(
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=2))
            )
            for _ in range(3):
                client.request("GET", path)
                answer = client.getresponse()
                assert (answer.status, "state" in json.loads(answer.read())) == (200, True)
        with pytest.raises(TimeoutError):
            held.recv(1)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n[1",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3000,
    ],
    ids=["a body without its end", "no chunk", "many whose answers nobody reads"],
)
def test_a_client_that_pings_and_leaves_it_at_that_stops_nobody(start_server, request_bytes):
    server = start_server()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(server)).sendall(request_bytes)
        for _ in range(3):
            sent = time.monotonic()
            assert server.ping()[0] == 200
            assert server.invoke([1]).json() == [2]
            assert time.monotonic() - sent < 5


def test_a_request_may_come_byte_by_byte(shared_server):
    with connect(shared_server) as client:
        for byte in WHOLE:
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        assert answer_of(client) == (200, b"[2.0]")


@pytest.mark.parametrize("cut", [10, len(HEAD), len(WHOLE) - 1, len(WHOLE), len(WHOLE) + 10])
def test_requests_may_follow_each_other_closely(shared_server, cut):
    both = WHOLE + WHOLE.replace(b"[1]", b"[4]")
    with connect(shared_server) as client, client.makefile("rb") as answers:
        client.sendall(both[:cut])
        time.sleep(0.1)
        client.sendall(both[cut:])
        for expected in (b"[2.0]", b"[8.0]"):
            assert answers.readline().startswith(b"HTTP/1.1 200")
            while answers.readline() != b"\r\n":
                pass
            assert answers.read(len(expected)) == expected


def test_a_body_larger_than_what_waits_is_read_to_its_end(shared_server):
    body = b"[" + b" " * 300_000 + b"1]"
    with connect(shared_server) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 50_000):
            client.sendall(body[start : start + 50_000])
            time.sleep(0.02)
        assert answer_of(client) == (200, b"[2.0]")


def test_a_large_body_that_stalls_is_408_and_its_place_is_free_again(start_server):
    server = start_server(REQUEST_TIMEOUT_SECONDS=1, MAX_QUEUE=1)
    with connect(server) as client:
        client.sendall(HEAD + b"Content-Length: 200000\r\n\r\n" + b" " * 100_000)
        server.wait_for_metric("inference_in_flight_requests", 1)
        assert server.invoke([1]).status_code == 503
        status, body = answer_of(client)
        assert (status, b"did not come" in body) == (408, True)
    server.wait_for_metric("inference_in_flight_requests", 0)
    assert server.invoke([1]).json() == [2]


def test_silent_clients_do_not_delay_the_end(start_server):
    server = start_server()
    with contextlib.ExitStack() as stack:
        for beginning in (b"", HEAD):
            stack.enter_context(connect(server)).sendall(beginning)
        time.sleep(0.2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code(10) == 0
        assert time.monotonic() - began < 8
