"""While a training runs: checkpoints, all that a restarted job needs, in one file that is either whole or not there.

`step-00000120.safetensors` holds network, averaged weights and optimiser, and in its header the
step and the job's facts; `.sha256` beside it proves it whole. The last two are kept, the older
is deleted only when the newer is complete (SageMaker mirrors deletions to S3).
"""

import hashlib
import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from surface_normals.artifact import write_atomically
from surface_normals.training.sharding import part_of

logger = logging.getLogger(__name__)

KEEP = 2


@dataclass
class Checkpoint:
    """What is kept: the number of steps done, what the trainer said of the job, and the tensors by name."""

    step: int
    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(folder: Path, step: int, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the checkpoint of `step`, then delete all but the last two."""
    on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    data = save(on_cpu, metadata={"step": str(step), "facts": json.dumps(facts)})
    path = folder / f"step-{step:08d}.safetensors"
    write_atomically(_checksum_path(path), hashlib.sha256(data).hexdigest().encode())
    write_atomically(path, data)
    for old in _newest_first(folder)[KEEP:]:
        _remove(old)
    logger.info("checkpoint of step %d written", step)


class CheckpointWriter:
    """Writes checkpoints while the training goes on, one at a time. As a context it waits for the last one."""

    def __init__(self, folder: Path, every_seconds: float) -> None:
        self._folder, self._every_seconds = folder, every_seconds
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._written_at, self._last_step = time.monotonic(), -1

    @property
    def busy(self) -> bool:
        """Whether one is still being written."""
        return self._pending is not None and not self._pending.done()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough for another, and written."""
        return time.monotonic() - self._written_at >= self._every_seconds and not self.busy

    def write(self, checkpoint: Checkpoint) -> None:
        """Copy the tensors, which training changes in place, and begin to write; a step is written once.

        Raises OSError when the one before could not be written.
        """
        self.finish()
        if checkpoint.step == self._last_step:
            return
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in checkpoint.tensors.items()}
        self._pending = self._pool.submit(
            save_checkpoint, self._folder, checkpoint.step, checkpoint.facts, copies
        )
        self._written_at, self._last_step = time.monotonic(), checkpoint.step

    def finish(self) -> None:
        """Wait until all is written. Raises OSError when it could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.finish()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None when there is none; a damaged one is named and removed."""
    path = _newest_whole(folder)
    if path is None:
        return None
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return Checkpoint(int(header["step"]), json.loads(header["facts"]), tensors)


def load_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of the checkpoint that `load_checkpoint` would load."""
    path = _newest_whole(folder)
    if path is None:
        return None
    with safe_open(path, framework="pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    return facts


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `optimizer.<parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `pack_optimizer`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in with_prefix(tensors, "optimizer.").items():
        index, key = name.split(".")
        like = parameters[int(index)]
        # Files know no strides, and a fused optimiser goes through a parameter and its state in memory's order.
        laid_out = torch.empty_like(like).copy_(part_of(value, like)) if value.shape == like.shape else value
        state.setdefault(int(index), {})[key] = laid_out
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _newest_whole(folder: Path) -> Path | None:
    for path in _newest_first(folder):
        checksum = _checksum_path(path)
        if checksum.is_file() and checksum.read_text() == hashlib.sha256(path.read_bytes()).hexdigest():
            return path
        logger.warning("%s is damaged or incomplete and removed; trying the one before", path)
        _remove(path)  # else it would stay the newest, and have the place of a whole one
    return None


def _remove(path: Path) -> None:
    path.unlink()
    _checksum_path(path).unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")
