"""Log lines of both programs: one event is one line on standard error, in UTC.

`train` and `serve` call `configure` once, first thing; every other module only
asks `logging.getLogger(__name__)`.
"""

import logging
import sys
import time

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class OneLineFormatter(logging.Formatter):
    """Keeps an event, its traceback included, on one line: CloudWatch makes an event of each line."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(FORMAT, TIME_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).rstrip("\n").replace("\n", " | ")


def configure(level: str | int = "INFO") -> None:
    """Send the root logger to standard error. `level`: a logging name in any case, or its number.

    Raises ValueError naming the accepted levels when `level` is not one.
    """
    name = str(level).strip().upper()
    if name not in LEVELS and not name.isdigit():
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)} or a number")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(level=int(name) if name.isdigit() else name, handlers=[handler], force=True)
