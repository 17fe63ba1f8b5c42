"""The training run, from top to bottom: data, network, resume, steps, measurement, model."""

import json
import logging
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from surface_normals import predictor
from surface_normals.artifact import save_artifact, write_atomically
from surface_normals.codecs import MIN_SIDE
from surface_normals.device import pick_device
from surface_normals.network import SHAPES, SurfaceNormalNetwork
from surface_normals.training import checkpoints
from surface_normals.training.batches import Batch, steps_per_epoch, training_batches
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import ALWAYS_FACING, evaluate, evaluate_constant
from surface_normals.training.losses import angular_mf_loss
from surface_normals.training.pretrained import start_encoder

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 5.0
FINAL_RATE_SHARE = 0.01
Tensors = tuple[Tensor, ...] | list[Tensor]
REVISION_FILE = Path(__file__).parents[2] / "REVISION"


def run(
    config: Config,
    *,
    channels: Mapping[str, Path],
    model_dir: Path,
    output_dir: Path,
    checkpoint_dir: Path,
    report: Callable[[str, float, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train on channel `train`, measure on channel `validation` if there is one, leave the artifact in `model_dir`.

    When `should_stop()` turns true the current step is finished, then a checkpoint and the model as
    it is are written. Raises ValueError for data that cannot be used, naming channel and file.
    """
    if "train" not in channels:
        raise ValueError(
            f"channel 'train' is missing; the job has {', '.join(sorted(channels)) or 'no channel'}"
        )
    training_set = PictureDataset("train", channels["train"])
    validation_set = (
        PictureDataset("validation", channels["validation"]) if "validation" in channels else None
    )
    if validation_set is None:
        logger.warning("no channel 'validation': the model will not be measured")
    else:
        _log_baseline(validation_set, should_stop)

    trainer = Trainer(config, channels, num_steps=config.epochs * steps_per_epoch(config, len(training_set)))
    trainer.resume(checkpoint_dir, training_set)
    logger.info(
        "%d pictures, %d validation pictures, %d steps of %d, %.1f M parameters on %s",
        len(training_set),
        len(validation_set or ()),
        trainer.num_steps,
        config.batch_size,
        sum(parameter.numel() for parameter in trainer.network.parameters()) / 1e6,
        trainer.device,
    )

    epoch_steps = steps_per_epoch(config, len(training_set))
    progress = Progress(report, trainer)
    checkpoint_due = time.monotonic() + config.checkpoint_minutes * 60
    for batch in training_batches(config, training_set, trainer.step, trainer.num_steps):
        progress.add(*trainer.train_step(batch))
        if should_stop():
            break
        if time.monotonic() >= checkpoint_due:
            progress.flush()  # refuses to go on from numbers that are not finite
            trainer.save_checkpoint(checkpoint_dir, training_set)
            checkpoint_due = time.monotonic() + config.checkpoint_minutes * 60
        epoch, rest = divmod(trainer.step, epoch_steps)
        if rest == 0 and validation_set and epoch % config.evaluate_epochs == 0 and epoch < config.epochs:
            progress.flush()
            _report_metrics(trainer.measure(validation_set, should_stop), report, trainer.step)
            if should_stop():
                break
    progress.flush()
    trainer.save_checkpoint(checkpoint_dir, training_set)
    facts = _facts(config, trainer.step)
    save_artifact(model_dir, trainer.model(), SHAPES[config.size], facts)

    if trainer.step < trainer.num_steps:
        logger.warning(
            "stopped after step %d of %d; the model so far is in %s",
            trainer.step,
            trainer.num_steps,
            model_dir,
        )
    elif validation_set:
        # Once more from the files, through the code that serves them: what is measured is what is deployed.
        metrics = evaluate(predictor.load(model_dir), validation_set, should_stop)
        if metrics is None:
            logger.warning("stopped while the finished model was measured; it is in %s", model_dir)
            return
        _report_metrics(metrics, report, trainer.step)
        save_artifact(model_dir, trainer.model(), SHAPES[config.size], {**facts, "validation": metrics})
        write_atomically(output_dir / "metrics.json", json.dumps(metrics, indent=2).encode())


class Trainer:
    """Network, averaged network and optimiser, and how they advance by one step."""

    def __init__(self, config: Config, channels: Mapping[str, Path], num_steps: int) -> None:
        torch.manual_seed(config.seed)
        self.config, self.num_steps, self.step = config, num_steps, 0
        self.device = pick_device()
        # Emulated bfloat16, as torch offers it on a T4, is slower than float32.
        self.use_bfloat16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        self.network = SurfaceNormalNetwork(SHAPES[config.size])
        loaded = start_encoder(self.network, config, channels)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.network, multi_avg_fn=self._move_average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(loaded), lr=config.learning_rate, fused=True
        )

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """One step; its loss, its mean angle in radians (both still on the device) and the batch's size."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate_share()
        picture, truth, valid = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16):
            normals, concentration = self.network(picture.float() / 255)
        loss, angle = angular_mf_loss(normals, concentration, truth, valid)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return loss.detach(), angle, len(picture)

    def model(self) -> SurfaceNormalNetwork:
        """The averaged network: what is measured and shipped."""
        return cast(SurfaceNormalNetwork, self.average.module)

    def measure(self, dataset: PictureDataset, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        """The eight numbers of the model as it is now; None when the job was stopped meanwhile."""
        return evaluate(predictor.SurfaceNormalPredictor(self.model(), self.device), dataset, should_stop)

    def save_checkpoint(self, folder: Path, training_set: PictureDataset) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= checkpoints.pack_optimizer(self.optimizer)
        checkpoints.save_checkpoint(
            folder, self.step, {"config": asdict(self.config), "data": training_set.fingerprint}, tensors
        )
        logger.info("checkpoint of step %d written", self.step)

    def resume(self, folder: Path, training_set: PictureDataset) -> None:
        """Go on from the newest whole checkpoint. Raises ValueError when it is of another network or data set."""
        found = checkpoints.load_checkpoint(folder)
        if found is None:
            logger.info("no checkpoint in %s: starting at step 0", folder)
            return
        config = found.facts["config"]
        if config["size"] != self.config.size:
            raise ValueError(
                f"checkpoint in {folder} is of size={config['size']}, this job has size={self.config.size}; "
                "use the same size, or empty the checkpoint folder to start anew"
            )
        if found.facts["data"] != training_set.fingerprint:
            raise ValueError(
                f"checkpoint in {folder} is of other pictures than those in {training_set.folder}; "
                "empty the checkpoint folder to start anew"
            )
        self.network.load_state_dict(checkpoints.with_prefix(found.tensors, "network."))
        self.average.load_state_dict(checkpoints.with_prefix(found.tensors, "average."))
        checkpoints.unpack_optimizer(self.optimizer, found.tensors)
        self.step = found.step
        logger.info("resumed from the checkpoint of step %d in %s", self.step, folder)
        changed = [name for name, value in asdict(self.config).items() if config.get(name) != value]
        if self.step >= self.num_steps:
            logger.warning("that job was complete: nothing is left to train")
        if changed:
            logger.warning("hyperparameters changed since that checkpoint: %s", ", ".join(changed))

    def _parameter_groups(self, encoder_loaded: bool) -> list[dict[str, Any]]:
        """Four groups: encoder or new layers, with or without decay. Norms and biases are vectors: no decay."""
        rate, share = self.config.learning_rate, self.config.encoder_rate_share if encoder_loaded else 1.0
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "peak": rate * share if in_encoder else rate,
                "weight_decay": self.config.weight_decay if is_matrix else 0.0,
            }
            for (in_encoder, is_matrix), parameters in groups.items()
        ]

    def _rate_share(self) -> float:
        """The schedule: a straight line up to 1, then a cosine down to FINAL_RATE_SHARE."""
        warmup_steps = max(1, round(self.num_steps * self.config.warmup_share))
        if self.step < warmup_steps:
            return (self.step + 1) / warmup_steps
        done = (self.step - warmup_steps) / max(1, self.num_steps - warmup_steps)
        return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    @torch.no_grad()
    def _move_average(self, averages: Tensors, currents: Tensors, num_averaged: Tensor | int) -> None:
        """Exponential average whose memory grows with the run, so that a short one forgets its start."""
        decay = min(self.config.ema_decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)


class Progress:
    """Reports means over the last few seconds; reading a GPU's numbers more often would slow it."""

    def __init__(self, report: Callable[[str, float, int], None], trainer: Trainer) -> None:
        self.report, self.trainer = report, trainer
        self._start()

    def _start(self) -> None:
        self.started = time.monotonic()
        self.losses: list[Tensor] = []
        self.angles: list[Tensor] = []
        self.num_pictures = 0

    def add(self, loss: Tensor, angle: Tensor, num_pictures: int) -> None:
        self.losses.append(loss)
        self.angles.append(angle)
        self.num_pictures += num_pictures
        if time.monotonic() - self.started >= SECONDS_BETWEEN_REPORTS:
            self.flush()

    def flush(self) -> None:
        if not self.losses:
            return
        step = self.trainer.step
        loss = torch.stack(self.losses).mean().item()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {step}: lower learning_rate, or look for broken data"
            )
        self.report("train_loss", loss, step)
        self.report("train_mean_angular_error", math.degrees(torch.stack(self.angles).mean().item()), step)
        self.report("learning_rate", max(group["lr"] for group in self.trainer.optimizer.param_groups), step)
        self.report("images_per_second", self.num_pictures / (time.monotonic() - self.started), step)
        logger.info(
            "step %d of %d (%.0f %%)", step, self.trainer.num_steps, 100 * step / self.trainer.num_steps
        )
        self._start()


def _report_metrics(
    metrics: dict[str, float] | None, report: Callable[[str, float, int], None], step: int
) -> None:
    for name, value in (metrics or {}).items():
        report(f"val_{name}", value, step)


def _log_baseline(dataset: PictureDataset, should_stop: Callable[[], bool]) -> None:
    facing = evaluate_constant(ALWAYS_FACING, (dataset[index] for index in range(len(dataset))), should_stop)
    if facing:
        logger.info(
            "to beat: 'always facing the camera' scores a mean error of %.2f degrees on validation",
            facing["mean_angular_error"],
        )


def _facts(config: Config, step: int) -> dict[str, Any]:
    return {
        "sizes": {"training_crop": [config.crop_height, config.crop_width], "smallest_side": MIN_SIDE},
        "trained": {"step": step, "config": asdict(config)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The code's git revision: from the file that the image build writes, else from git, else None."""
    if REVISION_FILE.is_file():
        return REVISION_FILE.read_text().strip() or None
    try:
        command = ["git", "-C", str(REVISION_FILE.parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
