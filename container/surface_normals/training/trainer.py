"""Inside the training run: network, averaged network and optimiser, and how they advance, are kept and come back."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork, shape_of
from surface_normals.torch_engine import TorchEngine
from surface_normals.training import checkpoints
from surface_normals.training.batches import Batch
from surface_normals.training.compiling import compiled
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.distributed import Ranks
from surface_normals.training.evaluation import Evaluation, evaluate
from surface_normals.training.gradients import GradientNorms
from surface_normals.training.losses import NEGATIVE_IS_RIGHT, normal_loss
from surface_normals.training.pretrained import start_network
from surface_normals.training.sharding import part_of, shard, whole
from surface_normals.training.shares import TrainingPictures
from surface_normals.training.truth import unit_normals

logger = logging.getLogger(__name__)

FINAL_RATE_SHARE = 0.01
MOST_LEFT_OUT = 20
"""Steps in a row that float16's scaler may leave out: by then its first scale of 65536 is below 0.1."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Tensors = tuple[Tensor, ...] | list[Tensor]


class Step(NamedTuple):
    """What one step tells; the tensors are single numbers, still on the device."""

    loss: Tensor
    angle: Tensor
    """mean angle in radians"""
    gradient_norm: Tensor
    """of all gradients together, before clipping; the same on every rank"""
    names: tuple[str, ...]
    """the samples of this rank's batch"""


class Trainer:
    """Network, averaged network and optimiser. Every rank has one, and all are alike after each step."""

    def __init__(
        self,
        config: Config,
        channels: Mapping[str, Path],
        num_steps: int,
        rate_factor: float = 1.0,
        ranks: Ranks | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.num_steps, self.step = config, num_steps, 0
        self.rate_factor = rate_factor
        """On all learning rates: 0.5 after a retry."""
        self.ranks = ranks or Ranks()
        self.device = pick_device()
        self.precision = pick_precision(config.precision, self.device)
        self.scaler = GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self._left_out = torch.zeros((), dtype=torch.int32, device=self.device)
        self.network = SurfaceNormalNetwork(shape_of(config.size, config.encoder, config.intrinsics))
        loaded = start_network(self.network, config, channels)
        self.network = cast(SurfaceNormalNetwork, self.ranks.batch_norms(self.network, self.device))
        self.sharded = config.sharding == "full" and self.ranks.count > 1
        if not self.sharded:
            self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.network, multi_avg_fn=self._move_average, use_buffers=True)
        if self.sharded:
            shard(
                self.network,
                self.average.module,
                device_type=self.device.type,
                num_ranks=self.ranks.count,
            )
        self.gradients = GradientNorms(self.network)
        self.optimizer = torch.optim.AdamW(self._parameter_groups(loaded), fused=True)
        self.parallel = self.ranks.parallel(self.network, self.device)
        self.forward = compiled(self.parallel) if config.compile else self.parallel
        self._seconds_before, self._started = 0.0, time.monotonic()
        if self.ranks.is_leader:
            logger.info("precision %s", str(self.precision).removeprefix("torch."))
            if config.sharding == "full" and not self.sharded:
                logger.info(
                    "sharding=full is for several processes; this is the only one: it has the whole network"
                )
            if config.loss == "angmf":
                logger.info("%s", NEGATIVE_IS_RIGHT)

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, earlier attempts included."""
        return self._seconds_before + time.monotonic() - self._started

    def train_step(self, batch: Batch) -> Step:
        """One step on this rank's part of a batch."""
        self._seed()
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate_factor * self._rate_share()
        self.optimizer.zero_grad(set_to_none=True)
        loss, angle = self._backward(batch)
        self.scaler.unscale_(self.optimizer)
        self.gradients.add(self.step)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self.scaler.is_enabled():
            # Gradients beyond float16 are no news: the scaler leaves that step out and scales the next ones less.
            # Those that stay so however little they are scaled are.
            finite = norm.isfinite()
            self._left_out = torch.where(finite, 0, self._left_out + 1)
            norm = torch.where(finite | (self._left_out > MOST_LEFT_OUT), norm, 0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.step += 1
        return Step(loss, angle, norm, batch.names)

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Gradients of the batch's loss, in `accumulate` portions for the memory of one; its loss and mean angle.

        Every pixel counts as in one piece. All ranks make as many portions as the smallest part allows:
        a BatchNorm over all of them waits for each.
        """
        tensors = (batch.picture, batch.intrinsics, batch.vectors, batch.valid, batch.turns)
        picture, intrinsics, *stored = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
        truth, valid = unit_normals(*stored)
        num_valid, weight = valid.sum(), self.ranks.weight(valid)
        num_portions = 1
        if self.config.accumulate > 1:
            num_portions = min(self.config.accumulate, *self.ranks.gather(len(batch.names)))
        total_loss = total_angle = torch.zeros((), device=self.device)
        parts = (tensor.tensor_split(num_portions) for tensor in (picture, intrinsics, truth, valid))
        portions = zip(*parts, strict=True)
        for done, (picture, intrinsics, truth, valid) in enumerate(portions, start=1):
            share = weight * (valid.sum() / num_valid.clamp(min=1))
            with self.ranks.gradients_apart(self.parallel, apart=done < num_portions):
                with torch.autocast(
                    self.device.type, self.precision, enabled=self.precision is not torch.float32
                ):
                    normals, concentration = self.forward(picture.float() / 255, intrinsics)
                loss, angle = normal_loss(self.config.loss, normals, concentration, truth, valid)
                loss = loss * share
                self.scaler.scale(loss).backward()
            total_loss, total_angle = total_loss + loss.detach(), total_angle + angle * share
        return total_loss, total_angle

    def model(self) -> SurfaceNormalNetwork | None:
        """The averaged network: what is measured and shipped. Every rank must ask; some get None, the leader never."""
        if not self.sharded:
            return cast(SurfaceNormalNetwork, self.average.module)
        weights = whole(self.average.module.state_dict(), keep=self.ranks.is_leader)
        if not self.ranks.is_leader:
            return None
        network = SurfaceNormalNetwork(self.network.shape)
        network.load_state_dict(weights)
        return network

    def measure(self, dataset: PictureDataset, should_stop: Callable[[], bool]) -> Evaluation | None:
        """How good the model is as it is now, on the leader; None on the others, and when the job was stopped."""
        model = self.model()

        def work(should_stop: Callable[[], bool]) -> Evaluation | None:
            assert model is not None  # the leader's work
            return evaluate(TorchEngine(model, self.device), dataset, should_stop, self.config.workers)

        return self.ranks.leader_alone(work, should_stop)

    def checkpoint(self, training_set: PictureDataset | TrainingPictures) -> checkpoints.Checkpoint:
        """All that `resume` needs, on the leader; every rank must ask.

        The random numbers are not in it: each step draws its own from seed and step.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= checkpoints.pack_optimizer(self.optimizer)
        tensors = whole(tensors, keep=self.ranks.is_leader)
        facts = {
            "config": asdict(self.config),
            "data": training_set.fingerprint,
            "ranks": self.ranks.count,
            "rate_factor": self.rate_factor,
            "seconds": self.seconds,
            "scaler": self.scaler.state_dict(),
        }
        return checkpoints.Checkpoint(self.step, facts, tensors)

    def resume(self, folder: Path, training_set: PictureDataset | TrainingPictures) -> None:
        """Go on from the leader's newest whole checkpoint, if there is one.

        Raises ValueError when it is of another network or data set.
        """
        found = checkpoints.load_checkpoint(folder) if self.ranks.is_leader else None
        found = self._shared(found)
        if found is None:
            logger.info("no checkpoint in %s: starting at step 0", folder)
            return
        config = asdict(Config()) | found.facts["config"]  # of an older version, it may lack some
        for name in ("size", "encoder", "intrinsics"):
            if config[name] != getattr(self.config, name):
                raise ValueError(
                    f"checkpoint in {folder} is of {name}={config[name]}, this job has "
                    f"{name}={getattr(self.config, name)}; use the same {name}, or empty the checkpoint folder to "
                    "start anew"
                )
        if found.facts["data"] != training_set.fingerprint:
            raise ValueError(
                f"checkpoint in {folder} is of other pictures than those in {training_set.folder}; "
                "empty the checkpoint folder to start anew"
            )
        for prefix, network in (("network.", self.network), ("average.", self.average)):
            places = network.state_dict()
            weights = checkpoints.with_prefix(found.tensors, prefix)
            network.load_state_dict(
                {name: part_of(value, places.get(name)) for name, value in weights.items()}
            )
        checkpoints.unpack_optimizer(self.optimizer, found.tensors)
        # A second attempt begins with a scale of its own: the first one's may have sunk with its last steps.
        if self.scaler.is_enabled() and self.rate_factor == 1 and (scaler := found.facts.get("scaler")):
            self.scaler.load_state_dict(scaler)
        self.step = found.step
        self.rate_factor = min(self.rate_factor, found.facts["rate_factor"])
        self._seconds_before = found.facts["seconds"]
        logger.info(
            "resumed from the checkpoint of step %d in %s, after %.0f s of training",
            self.step,
            folder,
            self._seconds_before,
        )
        if self.step >= self.num_steps:
            logger.warning("that job was complete: nothing is left to train")
        if changed := [name for name, value in asdict(self.config).items() if config.get(name) != value]:
            logger.warning("hyperparameters changed since that checkpoint: %s", ", ".join(changed))
        if found.facts["ranks"] != self.ranks.count:
            logger.warning(
                "that checkpoint is of %d processes, this job has %d: a step is another number of pictures",
                found.facts["ranks"],
                self.ranks.count,
            )

    def _shared(self, found: checkpoints.Checkpoint | None) -> checkpoints.Checkpoint | None:
        """The leader's checkpoint, on every rank: the other hosts' folders need not hold the same."""
        if self.ranks.count == 1:
            return found
        step, facts = self.ranks.gather(found and (found.step, found.facts))[0] or (None, {})
        if step is None:
            return None
        return checkpoints.Checkpoint(step, facts, self.ranks.from_leader(found.tensors if found else None))

    def _seed(self) -> None:
        """Make what the step draws (dropped paths, augmentation on the device) its own, wherever the run began."""
        key = np.random.SeedSequence((self.config.seed, self.step, self.ranks.rank))
        torch.manual_seed(int(key.generate_state(1)[0]))

    def _parameter_groups(self, loaded: tuple[str, ...]) -> list[dict[str, Any]]:
        """Four groups: encoder or new layers, with or without decay. Norms and biases are vectors: no decay.

        What was loaded, by the beginnings of its names, learns slowly: there is something to spoil.
        """
        rate, share = self.config.learning_rate, self.config.loaded_rate_share
        groups: dict[tuple[bool, bool, bool], list[Tensor]] = {}
        for name, parameter in self.network.named_parameters():
            in_encoder = name.startswith("encoder.") and not name.startswith("encoder.neck.")
            key = (in_encoder, name.startswith(loaded), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "peak": rate * share if is_loaded else rate,
                "weight_decay": self.config.weight_decay if is_matrix else 0.0,
            }
            for (_, is_loaded, is_matrix), parameters in groups.items()
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


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """What the network computes in; `auto` is what the device has. Weights and loss are float32 whatever it is."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type != "cuda":
        return torch.float32
    # Emulated bfloat16, as torch offers it on a T4, is slower than float32.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
