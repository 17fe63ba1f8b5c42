"""How a load that failed for good ends the container, with its cause as the last line of the log.

A worker cannot end its master, but Gunicorn's master stops when one exits with this code. It then
logs lines of its own, so the worker leaves the cause in a file and the master says it at the end.
"""

import logging
import os
from pathlib import Path

from gunicorn.arbiter import Arbiter

FILE_NAME = "failure.txt"

_log = logging.getLogger(__name__)


def leave_with(cause: str, run_directory: Path) -> None:
    """End this worker, and with it the server; return only if another worker has done so already."""
    try:
        with (run_directory / FILE_NAME).open("x", encoding="utf-8") as file:
            file.write(cause)
    except FileExistsError:
        # A second exit while the master stops would break its stopping.
        return
    os._exit(Arbiter.APP_LOAD_ERROR)


def last_words(run_directory: Path) -> None:
    """Log the cause that a worker left, if one did."""
    try:
        cause = (run_directory / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    _log.error("%s", cause)
