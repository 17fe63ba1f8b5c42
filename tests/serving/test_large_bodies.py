"""Bodies of an asynchronous endpoint, which may have a gigabyte, beside little memory and disk."""

import contextlib
import re
import socket
import time
from pathlib import Path

MEBIBYTE = 2**20


def memory_bytes(server, name):
    """`VmRSS` now or `VmHWM` at most of the one worker."""
    (worker,) = server.children()
    return int(re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())[1]) * 1024


def lines(count, size_bytes):
    for number in range(count):
        yield b"[%d%s]\n" % (number, b" " * (size_bytes - 4 - len(str(number))))


def test_a_body_of_many_lines_is_never_in_memory_as_a_whole(start_server):
    server = start_server(MAX_BODY_MB=1024)
    server.post(b"[1]")
    before = memory_bytes(server, "VmHWM")
    answer = server.post(lines(300, MEBIBYTE), {"Content-Type": "application/jsonlines"})
    assert answer.text.split("\n") == [f"[{2.0 * number}]" for number in range(300)]
    assert memory_bytes(server, "VmHWM") - before < 60 * MEBIBYTE


def test_a_body_that_is_one_input_is_in_memory_once(start_server):
    server = start_server(MAX_BODY_MB=1024)
    server.post(b"[1]")
    before = memory_bytes(server, "VmHWM")
    answer = server.post(
        iter([b"\x93NUMPY", *[bytes(MEBIBYTE)] * 300]), {"Content-Type": "application/x-npy"}
    )
    assert answer.status_code == 400
    grown = memory_bytes(server, "VmHWM") - before
    assert 290 * MEBIBYTE < grown < 360 * MEBIBYTE
    assert memory_bytes(server, "VmRSS") < before + 60 * MEBIBYTE


def test_a_spooled_body_has_no_name_lies_in_the_temporary_folder_and_goes_with_its_request(start_server):
    server = start_server()
    (worker,) = server.children()

    def spooled():
        links = []
        for link in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                links.append(link.readlink())
        return [link for link in links if str(link).endswith("(deleted)") and server.base in link.parents]

    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        length = 20 * MEBIBYTE
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        client.sendall(b" " * (length - 3))
        end = time.monotonic() + 5
        while not spooled():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert server.invoke([1]).status_code == 200
        client.sendall(b"[1]")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    server.wait_for_metric("inference_in_flight_requests", 0)
    assert spooled() == []
