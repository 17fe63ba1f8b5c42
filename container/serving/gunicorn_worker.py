"""The worker that Gunicorn starts: it drains politely, and speaks JSON to broken HTTP."""

import signal
import threading
from types import FrameType
from typing import Any

from gunicorn.http.errors import ParseException

from serving.errors import bare_answer
from serving.slow_clients import PatientWorker


class Worker(PatientWorker):
    """One process with one copy of the model."""

    _draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM. In a signal handler no thread can be started safely, so the main loop does it."""
        self.method_queue.defer(self._start_draining)

    def _start_draining(self) -> None:
        if not self._draining:
            self._draining = True
            threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        """Gunicorn would stop accepting at once, and /ping would hang rather than say 503."""
        self.wsgi.extensions["drain"]()
        super().handle_exit(signal.SIGTERM, None)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that is not HTTP, or has too long a header: Gunicorn would send a page of HTML."""
        if isinstance(exc, ParseException):
            status, message = "400 Bad Request", str(exc)
            self.log.info("not HTTP: %s", exc)
        else:
            status, message = "500 Internal Server Error", "the server failed; its log has the cause"
            self.log.exception("a request failed outside the application")
        try:
            client.sendall(bare_answer(status, message))
        except OSError:
            self.log.debug("the client is gone")
