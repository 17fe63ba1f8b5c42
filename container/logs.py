"""Log lines of both programs: one event is one line on standard error, in UTC.

`train` and `serve` call `configure` once, first thing; every other module only
asks `logging.getLogger(__name__)`.
"""

import json
import logging
import sys
import time
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class OneLineFormatter(logging.Formatter):
    """Keeps an event, its traceback included, on one line: CloudWatch makes an event of each line."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(FORMAT, TIME_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, dict):
            return self._as_json(record, record.msg)
        return super().format(record).rstrip("\n").replace("\n", " | ")

    def _as_json(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        """An event that is a mapping is JSON: CloudWatch and others then search its fields by name."""
        line = {"time": self.formatTime(record, TIME_FORMAT), "level": record.levelname, **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


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
