"""While a job trains: every reported number, kept for metrics.csv, the report's curves and the health rules."""

import csv
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surface_normals.artifact import write_atomically

logger = logging.getLogger(__name__)

COLUMNS = ("step", "name", "value")
FILE = "metrics.csv"

Series = dict[str, list[tuple[int, float]]]
"""(step, value) of each name, in the order of the steps"""


class Record:
    """Passes numbers on to `report` and to TensorBoard, and remembers them."""

    def __init__(self, report: Callable[[str, float, int], None], tensorboard_dir: Path | None) -> None:
        self.rows: list[tuple[int, str, float]] = []
        self._report = report
        self._writer: Any = None
        if tensorboard_dir:
            from torch.utils.tensorboard import SummaryWriter  # half a second that most jobs can do without

            self._writer = SummaryWriter(str(tensorboard_dir))

    def __call__(self, name: str, value: float, step: int) -> None:
        self._report(name, value, step)
        self.rows.append((step, name, value))
        if self._writer:
            self._writer.add_scalar(name.replace("_", "/", 1), value, step)

    def series(self) -> Series:
        found: Series = {}
        for step, name, value in self.rows:
            found.setdefault(name, []).append((step, value))
        return found

    def save(self, folder: Path) -> None:
        """Write metrics.csv: one row for each number."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((step, name, f"{value:.8g}") for step, name, value in self.rows)
        write_atomically(folder / FILE, text.getvalue().encode())
        if self._writer:
            self._writer.flush()

    def restore(self, folder: Path, until_step: int) -> None:
        """Go back to a checkpoint's step, or take up what an interrupted run had saved: the curves are whole."""
        path = folder / FILE
        if self.rows or not path.is_file():
            self.rows = [row for row in self.rows if row[0] <= until_step]
            return
        try:
            with path.open(newline="") as file:
                rows = [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%r): the curves begin at step %d", path, error, until_step)
            return
        self.rows = [row for row in rows if row[0] <= until_step]

    def close(self) -> None:
        if self._writer:
            self._writer.close()
