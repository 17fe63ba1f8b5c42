"""A client's connection as the main loop and the threads use it: what it never waits for."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

from serving.client_socket import STALL_SECONDS, ClientSocket, Room


@contextlib.contextmanager
def accepted():
    """The server's end of a connection whose client neither sends nor takes anything."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        ours = ClientSocket(listener.accept()[0], Room(0), STALL_SECONDS)
        ours.wait_from_now()
        try:
            yield ours
        finally:
            ours.end()


def raised_soon(pool, call):
    return pool.submit(call).exception(timeout=3)


def test_100_continue_does_not_wait_for_a_client_that_takes_nothing():
    def offer():
        while True:
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    with ThreadPoolExecutor() as pool, accepted() as client:
        try:
            assert isinstance(raised_soon(pool, offer), BlockingIOError)
        finally:
            client.close()  # else the thread would never end


def test_the_main_loop_does_not_wait_for_bytes_where_a_model_has_set_a_default_timeout():
    with ThreadPoolExecutor() as pool:
        socket.setdefaulttimeout(5)
        try:
            with accepted() as client:
                assert isinstance(raised_soon(pool, lambda: client.recv_now(10)), BlockingIOError)
        finally:
            socket.setdefaulttimeout(None)
