"""Gunicorn's threaded worker, which gives a thread to a request and not to a client.

    accept -> gather -------> handled by a thread -> what is left is sent -> gather the next, or leave
                 `-> queue --^

Gunicorn lets a thread wait for a request's bytes, and its main loop for a client to close: a few slow clients
stop everyone. Here the main loop gathers requests, sends what a client does not take at once, and drops what a
refused one still sends; it never waits for any. A thread reads only bodies that are too large to be gathered,
or in chunks, and so only few do at a time.

A health check needs no thread at all: the main loop answers it, however many threads work or wait their turn.
"""

import errno
import resource
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from serving.balance import Balance
from serving.client_socket import STALL_SECONDS, ClientSocket, Room
from serving.errors import bare_answer
from serving.framing import Frame, frame_of, pattern_of_checks
from serving.request_threads import RequestThreads
from serving.settings import MEBIBYTE, load_settings

HEAD_BYTES = 65_536
"""Of a head, and what is asked of the kernel at a time; a request of no more is gathered in any case."""
GATHERED_BYTES = 8 * MEBIBYTE
"""A larger request is not gathered. Nearly every picture is smaller."""
ROOM_BYTES = 128 * MEBIBYTE
"""For gathered requests and unsent answers of all clients together."""
LEAVE_SECONDS = 10.0
"""For a client to send the rest of a request that was refused: a gigabyte from the same host, where SageMaker is."""
SWEEP_SECONDS = 0.5
CHECKS_EVERY_SECONDS = 0.1
"""While another worker accepts in this one's place."""
COURTESY_SECONDS = 0.001
"""In which another worker, that has fewer clients, wakes up and takes the new one."""
OPEN_FILES = 4096


class Connection(TConn):  # type: ignore[misc]
    """A client, and what has come of its next request."""

    sock: ClientSocket

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.received = bytearray()
        self.frame: Frame | None = None
        self.room_bytes = 0
        self.events = 0
        """What the main loop hears of the socket."""
        self.when_ready: Callable[[], None] = lambda: None
        """What it then does."""
        self.when_late: Callable[[], None] = lambda: None
        """What the main loop does at the socket's deadline."""


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """Overrides all that Gunicorn's main loop does with a connection."""

    place: int
    balance: Balance
    """Both from Gunicorn's configuration, before the fork."""

    def init_process(self) -> None:
        """Called by Gunicorn in the new process; returns at its end."""
        settings = load_settings()
        paths = filter(None, ("/ping", "/healthz", settings.health_route))
        self._checks = pattern_of_checks(paths)
        self._request_seconds = settings.request_timeout_seconds
        self._stall_seconds = min(STALL_SECONDS, self._request_seconds)
        self._room = Room(ROOM_BYTES)
        self._watched: dict[Connection, None] = {}  # by the main loop, the longest watched first
        self._working: set[Connection] = set()  # with a thread
        self._readers: set[Connection] = set()  # of these, whose body is being read
        self._max_readers = max(1, settings.max_queue // 2)
        self._queued: deque[Connection] = deque()  # until one of those has done
        self._listening = threading.Lock()  # changes who is watched, or what is heard of whom
        self._swept = 0.0
        self._notified = 0.0
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < OPEN_FILES:  # as many as connections, and some
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (OPEN_FILES if hard < 0 else min(hard, OPEN_FILES), hard)
            )
        super().init_process()

    def get_thread_pool(self) -> RequestThreads:
        """Called by Gunicorn once."""
        return RequestThreads(self.cfg.threads)

    def load_wsgi(self) -> None:
        """Called by Gunicorn before the main loop, which is then to look at once when the model is loaded."""
        super().load_wsgi()
        self.wsgi.extensions["health"].when_loaded = partial(self.method_queue.defer, lambda: None)

    def notify(self) -> None:
        """Gunicorn, in each turn: that this process is alive, which its master wants to know each second."""
        now = time.monotonic()
        if now - self._notified >= SWEEP_SECONDS:
            self._notified = now
            super().notify()

    # Accepting

    def set_accept_enabled(self, enabled: bool) -> None:
        """A worker whose model is loading leaves new clients to the others, if there are any."""
        super().set_accept_enabled(enabled and self.wsgi.extensions["health"].may_accept())

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn of the main loop."""
        if self.alive:
            self.set_accept_enabled(self.nr_conns < self.worker_connections)
        if self._accepting:
            self.balance.tell(self.place, self.nr_conns)
        else:
            self.balance.close(self.place)
        super().wait_for_and_dispatch_events(
            timeout if self._accepting else min(timeout, CHECKS_EVERY_SECONDS)
        )

    def accept(self, listener: socket.socket) -> None:
        """A new client is there; where there are too many, an idle one goes."""
        if self.balance.has_more(self.place):
            time.sleep(COURTESY_SECONDS)
        if self.nr_conns >= self.worker_connections - 1:
            self._drop_idlest()
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._drop_idlest()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        client = ClientSocket(accepted, self._room, self._stall_seconds)
        conn = Connection(self.cfg, client, address, listener.getsockname())
        client.wait_from_now()
        self._gather(conn)

    def _drop_idlest(self) -> None:
        idle = [conn for conn in list(self._watched) if not conn.received and not conn.sock.unsent_bytes]
        for conn in (idle or list(self._watched))[:1]:
            self._close(conn)

    # Waiting, in the main loop

    def _watch(
        self, conn: Connection, events: int, when_ready: Callable[[], None], when_late: Callable[[], None]
    ) -> None:
        """Call `when_ready` when the client can be read or written, `when_late` at its deadline."""
        conn.when_ready, conn.when_late = when_ready, when_late
        with self._listening:
            self._listen(conn, events)
            self._watched[conn] = None

    def _listen(self, conn: Connection, events: int) -> None:
        """Hear of these events of the client, and no others, until told otherwise."""
        if conn.events == events:
            return
        if conn.events:
            self.poller.unregister(conn.sock)
        if events:
            self.poller.register(conn.sock, events, partial(self._ready, conn))
        conn.events = events

    def _ready(self, conn: Connection, _: ClientSocket) -> None:
        """The client can be read, or written.

        While a thread has it, that is not what anyone waits for: then it sends more, or has left. Mostly neither
        happens, and the poller need not be told anything for a request.
        """
        with self._listening:
            is_awaited = conn in self._watched and conn.events != 0  # else from before it began to queue
            if not is_awaited:
                self._listen(conn, 0)
        if is_awaited:
            del self._watched[conn]
            conn.when_ready()

    def _unwatch(self, conn: Connection) -> None:
        self._watched.pop(conn, None)
        self._listen(conn, 0)

    def _close(self, conn: Connection) -> None:
        self._unwatch(conn)
        self._release(conn)
        conn.received = bytearray()  # Python may find out late that nobody needs the connection
        self.nr_conns -= 1
        conn.sock.end()

    def murder_pending(self) -> None:
        """Gunicorn, after each turn: give those up whose time is over, and look who has left while a thread works."""
        now = time.monotonic()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        if not self.alive:
            self._cap_keepalive(now + STOP_KEEPALIVE_LINGER)  # those that a thread has given back since
        for conn in [conn for conn in list(self._watched) if conn.sock.deadline <= now]:
            self._unwatch(conn)
            conn.when_late()
        for conn in list(self._working):
            when_gone = conn.sock.when_gone
            if when_gone is not None and conn.sock.is_gone():
                when_gone()

    def _cap_keepalive(self, deadline: float) -> None:
        """Gunicorn, stopping: connections without a request are kept no longer than that."""
        for conn in list(self._watched):
            if not conn.sock.unsent_bytes:
                conn.sock.deadline = min(conn.sock.deadline, deadline)

    # A request comes

    def enqueue_req(self, conn: Connection) -> None:
        """Gunicorn's name for it."""
        self._gather(conn)

    def _gather(self, conn: Connection) -> None:
        """Take what has come, and give the request to a thread when that is enough."""
        known = len(conn.received)
        if conn.parser is not None:  # the next request came with the last one
            conn.received += conn.parser.unreader.take_buffered()
            conn.frame = conn.frame or frame_of(conn.received)
        rest = 0 if conn.frame is None else (conn.frame.total_bytes or 0) - len(conn.received)
        piece, has_ended = b"", False
        if conn.frame is None or rest > 0:  # else who sends ahead of its answers would fill the memory
            try:
                piece = conn.sock.recv_now(min(max(rest, HEAD_BYTES), MEBIBYTE))
                has_ended = not piece
            except BlockingIOError:
                pass
            except OSError:
                self._close(conn)
                return
        conn.received += piece
        if has_ended and not conn.received:
            self._close(conn)
            return
        if not known and conn.received:
            conn.sock.wait_from_now(until=time.monotonic() + self._request_seconds)
        if conn.frame is None:
            conn.frame = frame_of(conn.received)
        if has_ended or (conn.frame is not None and conn.frame.is_whole(len(conn.received))):
            self._start(conn, is_whole=True)
        elif conn.frame is None and len(conn.received) >= HEAD_BYTES:
            self._refuse(conn, "431 Request Header Fields Too Large", f"the head is over {HEAD_BYTES} bytes")
        elif conn.frame is None or self._has_room(conn):
            late = partial(self._refuse, conn, "408 Request Timeout", "the rest of the request did not come")
            self._watch(
                conn,
                selectors.EVENT_READ,
                partial(self._gather, conn),
                late if conn.received else partial(self._close, conn),
            )
        else:
            self._read_in_turn(conn)

    def _has_room(self, conn: Connection) -> bool:
        """Whether the rest of this request may be gathered."""
        total = conn.frame.total_bytes if conn.frame is not None else None
        if total is None or total > GATHERED_BYTES:
            return False
        if total > HEAD_BYTES and not conn.room_bytes and self._room.take(total):
            conn.room_bytes = total
        return total <= HEAD_BYTES or conn.room_bytes > 0

    def _read_in_turn(self, conn: Connection) -> None:
        if len(self._readers) < self._max_readers:
            self._readers.add(conn)
            conn.sock.when_read = partial(self.method_queue.defer, self._has_read, conn)
            conn.sock.wait_from_now(until=time.monotonic() + self._request_seconds)
            self._start(conn, is_whole=False)
            return
        self._queued.append(conn)
        conn.sock.wait_from_now()
        busy = partial(self._refuse, conn, "503 Service Unavailable", "too many large bodies come at once")
        self._watch(conn, 0, lambda: None, busy)

    def _has_read(self, conn: Connection) -> None:
        """Another may have its turn."""
        conn.sock.when_read = None
        self._readers.discard(conn)
        while self._queued and len(self._readers) < self._max_readers:
            waiting = self._queued.popleft()
            if waiting in self._watched and waiting.received:  # else it was given up, or is being refused
                self._unwatch(waiting)
                self._read_in_turn(waiting)

    # A request is answered

    def _start(self, conn: Connection, *, is_whole: bool) -> None:
        conn.sock.is_whole = is_whole
        self._working.add(conn)
        if is_whole and self._checks.match(conn.received):
            self._finish(conn, stays=self.handle(conn))
        else:
            self.tpool.submit(partial(self._answer, conn))

    def _answer(self, conn: Connection) -> None:
        """In a thread. Where the client has taken all and stays, it waits for the next request from here on."""
        stays = False
        try:
            stays = self.handle(conn)
        except BaseException:  # a `decode` that calls sys.exit, say: the thread has others to answer
            self.log.exception("a request ended its thread, and has no answer")
        if stays and conn not in self._readers and conn.sock.unsent_bytes == 0:
            self._finish(conn, stays=True)  # without a turn of the main loop
        else:
            self.method_queue.defer(partial(self._finish, conn, stays=stays))

    def handle(self, conn: Connection) -> Any:
        """In a thread: what has been read already comes first."""
        received = bytes(conn.received)
        conn.received = bytearray()
        conn.data_ready = True
        conn.init()
        conn.parser.unreader.unread(received)
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Called by `handle`."""
        conn.sock.must_close = req.force_close
        try:
            stays = super().handle_request(req, conn)
            conn.sock.send_unsent()
            return stays
        except OSError as error:
            self._log_loss(conn, error)
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error

    def _log_loss(self, conn: Connection, error: OSError) -> None:
        self.log.info(
            {"event": "the client went away before it had its answer", "request_id": conn.sock.request_id}
            | {"error": str(error)}
        )

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Gunicorn would wait for a body that nobody read."""
        deadline, conn.sock.deadline = conn.sock.deadline, 0.0
        stays = bool(super()._keepalive_after(conn, keepalive))
        conn.sock.deadline = deadline
        return stays

    def _finish(self, conn: Connection, *, stays: bool) -> None:
        """The request is answered."""
        self._release(conn)
        conn.frame = None
        self._go_on(conn, stays=stays)

    def _release(self, conn: Connection) -> None:
        self._working.discard(conn)
        self._room.give(conn.room_bytes)
        conn.room_bytes = 0
        if conn in self._readers:
            self._has_read(conn)

    def _go_on(self, conn: Connection, *, stays: bool) -> None:
        """Send the rest of the answer; then the next request may come, or the connection ends."""
        if conn.sock.unsent_bytes:
            send = partial(self._send, conn, stays=stays)
            late = partial(self._lose, conn, TimeoutError("it does not take its answer"))
            self._watch(conn, selectors.EVENT_WRITE, send, late)
        elif not stays:
            self._leave(conn)
        else:
            conn.sock.wait_from_now()
            conn.sock.deadline = time.monotonic() + (
                self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER
            )
            if conn.parser.unreader.buf.getvalue():
                self.method_queue.defer(self._gather, conn)
            else:
                gather, close = partial(self._gather, conn), partial(self._close, conn)
                self._watch(conn, selectors.EVENT_READ, gather, close)

    def _send(self, conn: Connection, *, stays: bool) -> None:
        try:
            conn.sock.send_unsent()
        except OSError as error:
            self._lose(conn, error)
        else:
            self._go_on(conn, stays=stays)

    def _lose(self, conn: Connection, error: OSError) -> None:
        self._log_loss(conn, error)
        self._close(conn)

    def _refuse(self, conn: Connection, status: str, message: str) -> None:
        self.log.info("%s: %s", status, message)
        self._release(conn)
        conn.received = bytearray()
        try:
            conn.sock.sendall(bare_answer(status, message))
        except OSError as error:
            self._lose(conn, error)
        else:
            self._go_on(conn, stays=False)

    def _leave(self, conn: Connection) -> None:
        """Say that nothing more comes, and wait for the client to close: closed before, it might lose the answer."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        leave_seconds = LEAVE_SECONDS if self.alive else STOP_KEEPALIVE_LINGER
        end = time.monotonic() + leave_seconds
        self._drop_rest(conn, end)

    def _drop_rest(self, conn: Connection, end: float) -> None:
        try:
            has_ended = not conn.sock.recv_now(MEBIBYTE)
        except BlockingIOError:
            has_ended = False
        except OSError:
            has_ended = True
        if has_ended:
            self._close(conn)
            return
        conn.sock.deadline = end
        drop, close = partial(self._drop_rest, conn, end), partial(self._close, conn)
        self._watch(conn, selectors.EVENT_READ, drop, close)
