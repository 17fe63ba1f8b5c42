"""The agent's file on the whole job, gpu-summary.json: rewritten while it runs, whole at its end."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from metrics.verdict import JobTotals


class Summary:
    """The file at `path` with what is known of the whole job; without a path there is none, and no verdict."""

    def __init__(self, path: Path | None, totals: JobTotals) -> None:
        self._path, self.totals = path, totals
        self._begun = self._written = time.monotonic()
        if path is not None:  # an earlier attempt's, on the same folders
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def age_seconds(self) -> float:
        """Since it was last written."""
        return time.monotonic() - self._written

    def write(self) -> dict[str, Any]:
        """Rewrite the file in one step; what was written, empty when nothing is known."""
        self._written = time.monotonic()
        figures = self.totals.summary(self._written - self._begun) if self._path else {}
        if figures and self._path is not None:
            # An output folder that cannot be written to is the job's trouble, and reported there.
            with contextlib.suppress(OSError):
                temporary = self._path.with_name(f".{self._path.name}.new")
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="ascii")
                temporary.replace(self._path)
        return figures
