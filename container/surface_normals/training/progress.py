"""Inside the training run: its numbers, as means over the last few seconds, and whether they are still numbers."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from surface_normals.training.batches import Batch
from surface_normals.training.distributed import first_of
from surface_normals.training.trainer import Step, Trainer

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 5.0
NAMES_SHOWN = 8


class NotFinite(FloatingPointError):
    """The loss or its gradient became infinite or no number."""


class Progress:
    """Collects steps; reading a GPU's numbers at each of them would slow it."""

    def __init__(self, report: Callable[[str, float, int], None], trainer: Trainer) -> None:
        self.report, self.trainer = report, trainer
        self.restart()

    def restart(self) -> None:
        """Begin to collect anew: what was done since the last report does not count in the speed."""
        self.started = time.monotonic()
        self.seconds_waited = 0.0
        self.steps: list[Step] = []

    def wait_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; how long each took to come is collected."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            self.seconds_waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def add(self, step: Step) -> None:
        self.steps.append(step)

    @property
    def due(self) -> bool:
        return time.monotonic() - self.started >= SECONDS_BETWEEN_REPORTS

    def flush(self) -> None:
        """Report what was collected; every rank at the same step. Raises NotFinite, on every rank alike."""
        if not self.steps:
            return
        trainer, step = self.trainer, self.trainer.step
        losses = torch.stack([taken.loss for taken in self.steps])
        norms = torch.stack([taken.gradient_norm for taken in self.steps])
        angles = torch.stack([taken.angle for taken in self.steps])
        finite = losses.isfinite() & norms.isfinite()
        if trainer.ranks.any(not finite.all())[0]:
            self._refuse(finite.tolist())
        loss, angle = trainer.ranks.mean(torch.stack((losses.mean(), angles.mean()))).tolist()
        num_pictures = sum(trainer.ranks.gather(sum(len(taken.names) for taken in self.steps)))
        self.report("train_loss", loss, step)
        self.report("train_mean_angular_error", math.degrees(angle), step)
        self.report("learning_rate", max(group["lr"] for group in trainer.optimizer.param_groups), step)
        seconds = time.monotonic() - self.started
        self.report("trained_images", num_pictures, step)
        self.report("trained_seconds", seconds, step)
        self.report("images_per_second", num_pictures / seconds, step)
        self.report("data_wait_percent", 100 * self.seconds_waited / seconds, step)
        self.report("step_milliseconds", 1000 * seconds / len(self.steps), step)
        if trainer.scaler.is_enabled():
            self.report("loss_scale", trainer.scaler.get_scale(), step)
        self.report("gradient_norm", norms.mean().item(), step)
        for part, norm in trainer.gradients.take().items():
            self.report(f"gradient_norm_{part}", norm, step)
        if trainer.device.type == "cuda":
            self.report("gpu_memory_mib", torch.cuda.max_memory_allocated() / 2**20, step)
        logger.info("step %d of %d (%.0f %%)", step, trainer.num_steps, 100 * step / trainer.num_steps)
        self.restart()

    def _refuse(self, finite: list[bool]) -> None:
        first = self.trainer.step - len(finite) + 1
        own = None
        if not all(finite):
            place = finite.index(False)
            names = self.steps[place].names
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            own = (first + place, ", ".join(names[:NAMES_SHOWN]) + more)
        found = first_of(self.trainer.ranks.gather(own))
        step, names_text = found or (self.trainer.step, "unknown")
        raise NotFinite(
            f"the loss or its gradient is not finite at step {step}, pictures {names_text}: "
            "lower learning_rate, or look at these pictures and their normals"
        )
