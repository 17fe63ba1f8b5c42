"""Start of a training run with batch_size=auto: as many pictures a step as the GPU's memory has room for.

Found by real steps on made-up pictures. A job that goes on from a checkpoint keeps the number it had.
"""

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from surface_normals.training.batches import Batch
from surface_normals.training.checkpoints import load_facts
from surface_normals.training.config import Config
from surface_normals.training.distributed import Ranks
from surface_normals.training.trainer import Trainer

logger = logging.getLogger(__name__)

FULLEST = 0.9
"""Share of the memory that may be taken; the rest is for what a few steps do not show."""
MOST = 256
"""Pictures a step on one GPU; more do not learn faster, and pass what some of CUDA's kernels can index."""
STEPS = 2
"""The optimiser has its own memory from the end of the first."""


def settle(config: Config, channels: Mapping[str, Path], checkpoint_dir: Path, ranks: Ranks) -> Config:
    """The configuration with a number for `batch_size`, the same on every rank, each of which must ask.

    Raises ValueError where there is no room for a single picture.
    """
    if config.batch_size != "auto":
        return config
    facts = load_facts(checkpoint_dir) if ranks.is_leader else None
    kept = ranks.gather(facts and facts["config"]["batch_size"])[0]
    if kept is not None:
        logger.info("batch_size=auto: %d pictures a step, as in the checkpoint", kept)
        return replace(config, batch_size=kept)
    logger.info("batch_size=auto: trying steps of 1, 2, 4, ... pictures")
    found = ranks.together(lambda: _measured(config, channels, ranks))
    size = min(number for number in found if number is not None)
    logger.info(
        "batch_size=auto: %d pictures a step on each of %d GPU(s), the largest power of two within %.0f %% of the "
        "memory; learning_rate stays %g",
        size,
        ranks.count,
        100 * FULLEST,
        config.learning_rate,
    )
    return replace(config, batch_size=size)


def largest_that_fits(fits: Callable[[int], bool], at_most: int = MOST) -> int:
    """The largest power of two up to `at_most` that `fits`, found by doubling; 0 when 1 does not."""
    size, following = 0, 1
    while following <= at_most and fits(following):
        size, following = following, 2 * following
    return size


def fits_without_error(attempt: Callable[[int], bool], size: int) -> bool:
    """What `attempt(size)` says, False where the GPU's memory did not suffice for it."""
    try:
        return attempt(size)
    except torch.cuda.OutOfMemoryError:
        return False


def made_up_batch(config: Config, size: int) -> Batch:
    """So many black pictures of the crop's size, with truth in every pixel."""
    height, width = config.crop_height, config.crop_width
    return Batch(
        picture=torch.zeros(size, height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2),
        vectors=torch.full((size, height, width, 3), -1, dtype=torch.float16),
        valid=torch.ones(size, height, width, dtype=torch.bool),
        turns=torch.eye(3).expand(size, 3, 3),
        names=("made up",) * size,
        intrinsics=torch.full((size, 4), torch.nan),
    )


def _measured(config: Config, channels: Mapping[str, Path], ranks: Ranks) -> int:
    """The largest number on this rank's GPU, by steps that it takes alone: the others may have less room."""
    trainer = Trainer(replace(config, compile=False), channels, num_steps=1, ranks=Ranks(alone=True))
    # The buckets in which several ranks exchange their gradients.
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.network.parameters())
    exchange_bytes = weights if ranks.count > 1 else 0

    def attempt(size: int) -> bool:
        batch = made_up_batch(config, size)
        for _ in range(STEPS):
            trainer.train_step(batch)
        torch.cuda.synchronize()
        free_bytes, all_bytes = torch.cuda.mem_get_info()  # torch keeps what it took at the peak
        return all_bytes - free_bytes + exchange_bytes <= FULLEST * all_bytes

    def fits(size: int) -> bool:
        enough = fits_without_error(attempt, size)
        trainer.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        return enough

    size = largest_that_fits(fits)
    if size == 0:
        raise ValueError(
            f"batch_size=auto: the GPU has no room for a step of one picture of {config.crop_width}x"
            f"{config.crop_height}: make crop_width and crop_height or the network smaller, or take a larger instance"
        )
    return size
