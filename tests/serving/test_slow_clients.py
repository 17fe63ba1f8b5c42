"""Clients that send little or nothing, and how little that is to the others."""

import contextlib
import http.client
import io
import json
import os
import selectors
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gunicorn.config import Config

from serving.client_socket import STALL_SECONDS, ClientSocket, Room
from serving.slow_clients import Connection, PatientWorker

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 3\r\n\r\n[1]"
LARGE = HEAD + b"Content-Length: 200000\r\n\r\n[1" + b" " * 199_997 + b"]"


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def answer_of(client):
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read()


def next_body(answers):
    """Of the next of several answers on a connection."""
    assert answers.readline().startswith(b"HTTP/1.1 200")
    length = 0
    while (line := answers.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return answers.read(length)


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


BODIES_THAT_NEVER_END = {
    "a body that could be gathered": HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 70_000,
    "a body of over 8 MiB": HEAD + b"Content-Length: 90000000\r\n\r\n" + b" " * 70_000,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n[1",
    "one that was refused": HEAD.replace(b"/invocations", b"/nothing") + b"Content-Length: 99999999\r\n\r\n ",
    "one that asks whether it may come": HEAD + b"Expect: 100-continue\r\nContent-Length: 99\r\n\r\n",
}


@pytest.mark.parametrize("beginning", BODIES_THAT_NEVER_END.values(), ids=BODIES_THAT_NEVER_END)
def test_bodies_that_come_byte_by_byte_take_no_thread_from_others(start_server, beginning):
    """More of them than threads, each sending on as long as it may."""
    server = start_server()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(60)]
        for client in clients:
            client.sendall(beginning)
        for _ in range(3):
            time.sleep(0.5)
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b" ")
            sent = time.monotonic()
            assert server.ping()[0] == 200
            assert server.invoke([1]).json() == [2]
            assert "inference_in_flight_requests" in server.metrics()
            assert time.monotonic() - sent < 5


def test_a_body_that_never_ends_is_given_up_however_regularly_it_comes(start_server):
    server = start_server(REQUEST_TIMEOUT_SECONDS=2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in BODIES_THAT_NEVER_END]
        for client, beginning in zip(clients, BODIES_THAT_NEVER_END.values(), strict=True):
            client.sendall(beginning)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b" ")
            time.sleep(0.1)
        for client, name in zip(clients, BODIES_THAT_NEVER_END, strict=True):
            if name == "one that asks whether it may come":
                assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            status, body = answer_of(client)
            assert (status, json.loads(body)["error"]) in [(408, "Request Timeout"), (404, "Not Found")]
    server.wait_for_metric("inference_in_flight_requests", 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        WHOLE.replace(b"Host", b"Connection: close\r\nHost"),
        b"NONSENSE\r\n\r\n",
        b"GET /ping HTTP/1.0\r\n\r\n",
    ],
    ids=["ping", "invocation", "not HTTP", "HTTP/1.0"],
)
def test_clients_that_keep_a_connection_open_after_its_last_answer_stop_nobody(shared_server, request_bytes):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(shared_server)) for _ in range(8)]
        for client in clients:
            client.sendall(request_bytes)
        sent = time.monotonic()
        for _ in range(3):
            assert shared_server.ping()[0] == 200
            assert shared_server.invoke([1]).json() == [2]
        assert time.monotonic() - sent < 5
        for client in clients:
            assert client.recv(7) == b"HTTP/1."


def large_answer(numbers):
    """A request whose answer has 18 bytes for each, more than the kernel keeps for a client."""
    body = io.BytesIO()
    np.save(body, np.full(numbers, 0.123456789012345))
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\nContent-Length: "
    return head + b"%d\r\n\r\n" % len(body.getvalue()) + body.getvalue()


@pytest.fixture
def slow_reader():
    """A client for whom the kernel keeps as little as it may."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(20)
        yield client


def test_a_large_answer_reaches_a_client_that_takes_it_slowly(start_server, slow_reader):
    """Longer than a stall may last: it is enough to go on."""
    server = start_server(REQUEST_TIMEOUT_SECONDS=2)
    slow_reader.connect(("127.0.0.1", server.port))
    slow_reader.sendall(large_answer(600_000))
    with http.client.HTTPResponse(slow_reader) as answer:
        answer.begin()
        got = 0
        while piece := answer.read(1_000_000):
            got += len(piece)
            time.sleep(0.5)
        assert got == int(answer.headers["Content-Length"]) > 10_000_000


def test_an_answer_that_nobody_takes_is_given_up_and_the_log_says_so(start_server, slow_reader):
    server = start_server(REQUEST_TIMEOUT_SECONDS=2, MAX_QUEUE=1)
    slow_reader.connect(("127.0.0.1", server.port))
    slow_reader.sendall(large_answer(600_000))
    server.wait_for_metric('inference_requests_total{code="200"}', 1)
    assert server.invoke([1]).json() == [2]
    end = time.monotonic() + 20
    while "the client went away before it had its answer" not in server.log:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_thousand_silent_clients_do_not_keep_others_out(start_server):
    server = start_server()
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(connect(server))
        for _ in range(5):
            assert server.ping()[0] == 200
            assert server.invoke([1]).json() == [2]


def test_a_head_that_does_not_end_is_refused(shared_server):
    with connect(shared_server) as client:
        client.sendall(HEAD + b"X: " + b"x" * 70_000)
        status, body = answer_of(client)
    assert (status, json.loads(body)["error"]) == (431, "Request Header Fields Too Large")


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
        assert next_body(answers) == b"[2.0]"
        assert next_body(answers) == b"[8.0]"


def test_the_next_request_may_come_while_the_model_has_the_last_one_and_wakes_nobody(shared_server):
    body = b'{"sleep": 1.5}'
    first = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with connect(shared_server) as client, client.makefile("rb") as answers:
        client.sendall(WHOLE)
        assert next_body(answers) == b"[2.0]"
        client.sendall(first)
        shared_server.wait_for_metric("inference_in_flight_requests", 1)
        client.sendall(WHOLE)
        before = cpu_seconds(shared_server)
        time.sleep(1)
        assert cpu_seconds(shared_server) - before < 0.3  # and not all of it
        assert next_body(answers) == b"[1.5]"
        assert next_body(answers) == b"[2.0]"


def test_who_sends_far_ahead_of_its_answers_is_answered_as_fast(shared_server):
    """What has come already is not gone through again for each."""
    count = 3000
    with connect(shared_server) as client, ThreadPoolExecutor(1) as pool, client.makefile("rb") as answers:
        began = time.monotonic()
        sent = pool.submit(client.sendall, count * WHOLE.replace(b"Host", b"X: %b\r\nHost" % (1000 * b"x")))
        for _ in range(count):
            assert next_body(answers) == b"[2.0]"
        assert time.monotonic() - began < 10
        sent.result()


def test_a_large_body_that_was_refused_while_it_queued_is_not_taken_for_a_request_later(start_server):
    server = start_server(REQUEST_TIMEOUT_SECONDS=2, MAX_QUEUE=2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(3)]
        for client in clients:  # the first is read for two seconds, then the second, and the third is refused
            client.sendall(HEAD + b"Content-Length: 20000000\r\n\r\n ")
            time.sleep(0.1)
        assert answer_of(clients[2])[0] == 503
        end = time.monotonic() + 4
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                clients[1].sendall(b" ")
                clients[2].sendall(b"NONSENSE\r\n\r\n")
            time.sleep(0.2)
    assert "not HTTP" not in server.log


@pytest.fixture
def idle_worker():
    """What of a worker knows its connections."""
    worker = object.__new__(PatientWorker)
    worker._watched, worker._working, worker._readers = {}, set(), set()
    worker._listening, worker._room, worker.nr_conns = threading.Lock(), Room(0), 1
    with selectors.DefaultSelector() as worker.poller:
        yield worker


@pytest.fixture
def connection():
    ours, theirs = socket.socketpair()
    client = ClientSocket(ours, Room(0), STALL_SECONDS)
    with theirs:
        yield Connection(Config(), client, "", "")
    client.end()


def test_an_event_from_before_a_client_began_to_queue_does_not_take_it_from_there(idle_worker, connection):
    """It would never be read, nor given up."""
    idle_worker._watch(connection, selectors.EVENT_READ, pytest.fail, pytest.fail)
    idle_worker._unwatch(connection)
    idle_worker._watch(connection, 0, pytest.fail, pytest.fail)
    idle_worker._ready(connection, connection.sock)
    assert connection in idle_worker._watched


def test_what_a_client_had_sent_when_it_left_is_forgotten_at_once(idle_worker, connection):
    """The connection itself is in a ring that the garbage collector has to find."""
    connection.received += b"much"
    idle_worker._close(connection)
    assert not connection.received


def cpu_seconds(server):
    (worker,) = server.children()
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
        client.sendall(HEAD + b"Content-Length: 20000000\r\n\r\n" + b" " * 100_000)
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
