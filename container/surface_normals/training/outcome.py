"""What a job tells besides its model: the numbers on its way, and the files in /opt/ml/output/data at its end.

metrics.csv     every reported number by step
metrics.json    the last measurement: the eight numbers, confidence, edges, constants
per_image.csv   the same picture by picture
health.json     what was found not to be well
report.html     all of it for eyes, in one file
"""

import csv
import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from surface_normals.artifact import write_atomically
from surface_normals.training.config import Config
from surface_normals.training.evaluation import Evaluation
from surface_normals.training.gpu_use import read_gpu_use
from surface_normals.training.health import OBJECTIVE, Finding, examine
from surface_normals.training.record import Record

logger = logging.getLogger(__name__)


class Outcome:
    """Receives every number and every measurement; `report` is what the rest of the training reports through."""

    def __init__(
        self,
        config: Config,
        output_dir: Path,
        checkpoint_dir: Path,
        report: Callable[[str, float, int], None],
        *,
        is_leader: bool = True,
    ) -> None:
        self.config, self.output_dir, self.checkpoint_dir = config, output_dir, checkpoint_dir
        writes_events = config.tensorboard and is_leader
        self.report = Record(report, output_dir.parent / "tensorboard" if writes_events else None)
        self.constants: dict[str, dict[str, float]] = {}
        self.evaluation: Evaluation | None = None
        self.evaluated_at = 0
        self._found: set[str] = set()

    def compare_with(self, constants: dict[str, dict[str, float]]) -> None:
        """The eight numbers of answers that do not look, which the model's will stand beside."""
        self.constants = constants
        for name, numbers in constants.items():
            logger.info("to beat: %r scores %.2f degrees on validation", name, numbers["mean_angular_error"])

    def resumed(self, step: int) -> None:
        """The run goes on from a checkpoint: the numbers before it are taken up again."""
        self.report.restore(self.checkpoint_dir, step)

    def checkpointed(self) -> None:
        """A checkpoint was written: the numbers so far go beside it, and what they say is not well into the log."""
        self.report.save(self.checkpoint_dir)
        self._examine()

    def measured(self, evaluation: Evaluation, step: int) -> None:
        """Report a measurement, the objective last, and say what is not well."""
        self.evaluation, self.evaluated_at = evaluation, step
        metrics = {f"val_{name}": value for name, value in evaluation.metrics().items()}
        metrics["val_ause"] = evaluation.calibration.ause()
        metrics["val_calibration_error"] = evaluation.calibration.calibration_error()
        objective = metrics.pop(OBJECTIVE)
        for name, value in {**metrics, OBJECTIVE: objective}.items():
            self.report(name, value, step)
        self._examine()

    def finish(self, step: int, num_steps: int, facts: dict[str, str]) -> None:
        """Write the files. What cannot be written is logged: by now the model is safe, and that is what counts."""
        series = self.report.series()
        if OBJECTIVE in series:
            self.report(f"best_{OBJECTIVE}", min(value for _, value in series[OBJECTIVE]), step)
        findings = self._examine(complete=step >= num_steps)
        writers: dict[str, Callable[[], None]] = {
            "metrics.csv": lambda: self.report.save(self.output_dir),
            "health.json": lambda: self._write_health(findings),
            "metrics.json": self._write_metrics,
            "per_image.csv": self._write_pictures,
            "report.html": lambda: self._write_report(step, num_steps, findings, facts),
        }
        for name, write in writers.items():
            try:
                write()
            except Exception:  # whatever it is, a job that has its model does not fail for a table of it
                logger.exception("%s was not written to %s; the model is complete", name, self.output_dir)
        self.report.close()

    def _examine(self, *, complete: bool = False) -> list[Finding]:
        dead = self.evaluation.dead_activations if self.evaluation else {}
        constants = [numbers["mean_angular_error"] for numbers in self.constants.values()]
        best_constant = min(constants, default=None)
        findings = examine(self.report.series(), self.config, dead, best_constant, complete=complete)
        for finding in findings:
            if finding.name not in self._found:
                logger.warning("training health: %s", finding)
        self._found |= {finding.name for finding in findings}
        return findings

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.output_dir / name, text.encode())

    def _write_health(self, findings: list[Finding]) -> None:
        self._write("health.json", json.dumps([asdict(finding) for finding in findings], indent=2))

    def _write_metrics(self) -> None:
        if not self.evaluation:
            return
        calibration = self.evaluation.calibration
        self._write(
            "metrics.json",
            json.dumps(
                {
                    **self.evaluation.metrics(),
                    "step": self.evaluated_at,
                    "confidence": {
                        "ause_degrees": calibration.ause(),
                        "calibration_error_degrees": calibration.calibration_error(),
                        "bins": [asdict(group) for group in calibration.bins()],
                    },
                    "edges": [asdict(group) for group in self.evaluation.edges.bins()],
                    "dead_activations": self.evaluation.dead_activations,
                    "constants": self.constants,
                },
                indent=2,
            ),
        )

    def _write_pictures(self) -> None:
        if not self.evaluation:
            return
        names = list(self.evaluation.metrics())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "valid_pixels", *names, "expected_mean_error"])
        for picture in self.evaluation.pictures:
            numbers = [picture.metrics[name] for name in names] if picture.metrics else [None] * len(names)
            row = [*numbers, picture.expected_error_degrees]
            writer.writerow(
                [picture.name, picture.valid_pixels, *("" if n is None else f"{n:.6g}" for n in row)]
            )
        self._write("per_image.csv", text.getvalue())

    def _write_report(
        self, step: int, num_steps: int, findings: list[Finding], facts: dict[str, str]
    ) -> None:
        from surface_normals.training.report import Run, render  # only the end of a job draws

        run = Run(
            self.config,
            step,
            num_steps,
            self.report.series(),
            self.evaluation,
            self.evaluated_at,
            self.constants,
            findings,
            facts,
            read_gpu_use(self.output_dir),
        )
        self._write("report.html", render(run))
