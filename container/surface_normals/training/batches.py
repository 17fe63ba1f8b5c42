"""The stream of training batches: a function of seed and step alone, so that a resumed job goes on exactly."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from surface_normals.training.augmentation import augment
from surface_normals.training.cameras import UNKNOWN_CAMERA
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset, Sample
from surface_normals.training.distributed import Ranks, share_of

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's worker processes hand over their tensors
BATCHES_UNDER_WAY = 2  # for each worker; torch's default

Key = tuple[int, int, bool]
"""Epoch, index of the sample, whether it counts."""


class Batch(NamedTuple):
    """One rank's part of a step's batch."""

    picture: Tensor
    """uint8 (B, 3, H, W)"""
    normals: Tensor
    """float32 (B, 3, H, W)"""
    valid: Tensor
    """bool (B, H, W)"""
    names: tuple[str, ...]
    intrinsics: Tensor
    """float32 (B, 4): fx, fy, cx, cy in the pixels of `picture`; NaN where the camera is unknown"""


def steps_per_epoch(config: Config, num_samples: int, num_ranks: int = 1) -> int:
    """A step takes `batch_size` samples on each rank. The last batch of an epoch may be smaller."""
    return -(-num_samples // (config.batch_size * num_ranks))


def training_batches(
    config: Config, dataset: PictureDataset, first_step: int, num_steps: int
) -> Iterator[Batch]:
    """This rank's part of the batches of steps `first_step` to `num_steps`.

    Raises ValueError for a damaged sample, naming its file.
    """
    loader = DataLoader(
        AugmentedSamples(config, dataset),
        batch_sampler=BatchPlan(config, len(dataset), first_step, num_steps, Ranks()),
        collate_fn=_collate,
        num_workers=_usable_workers(config),
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


class BatchPlan(Sampler[list[Key]]):
    """For each step the keys of this rank's samples; every sample once an epoch, each epoch shuffled anew.

    The order is the same for any number of ranks: they share each batch out among them. A rank that
    gets nothing of a small last batch takes one sample that does not count, to keep step with the others.
    """

    def __init__(
        self, config: Config, num_samples: int, first_step: int, num_steps: int, ranks: Ranks
    ) -> None:
        self.config, self.num_samples, self.ranks = config, num_samples, ranks
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        size = self.config.batch_size * self.ranks.count
        in_epoch = steps_per_epoch(self.config, self.num_samples, self.ranks.count)
        order_of: tuple[int, list[int]] = (-1, [])
        for step in self.steps:
            epoch, place = divmod(step, in_epoch)
            if order_of[0] != epoch:
                shuffle = np.random.default_rng((self.config.seed, epoch)).permutation
                order_of = (epoch, shuffle(self.num_samples).tolist())
            batch = order_of[1][place * size : (place + 1) * size]
            own = share_of(batch, self.ranks.rank, self.ranks.count)
            yield [(epoch, index, True) for index in own] or [(epoch, batch[0], False)]


class AugmentedSamples(Dataset[Sample | ValueError]):
    """Augmented samples by key; the augmentation is drawn from epoch, index and the seed.

    A damaged sample is returned as its ValueError: raised in a worker process, torch would wrap
    the one clear line into a traceback.
    """

    def __init__(self, config: Config, dataset: PictureDataset) -> None:
        self.config, self.dataset = config, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | ValueError:
        config = self.config
        epoch, index, counts = key
        try:
            sample = augment(
                self.dataset[index],
                np.random.default_rng((config.seed, epoch, index)),
                height=config.crop_height,
                width=config.crop_width,
                level=config.augment,
                roll_degrees=config.roll_degrees,
            )
        except ValueError as error:
            return error
        return sample if counts else replace(sample, valid=np.zeros_like(sample.valid))


def _collate(samples: list[Sample | ValueError]) -> Batch | ValueError:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    for sample in samples:
        if isinstance(sample, ValueError):
            return sample
    return Batch(
        torch.from_numpy(np.stack([sample.picture for sample in good])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.normals for sample in good])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.valid for sample in good])),
        tuple(sample.name for sample in good),
        torch.tensor([sample.intrinsics or UNKNOWN_CAMERA for sample in good], dtype=torch.float32),
    )


def _usable_workers(config: Config) -> int:
    """Worker processes that fit into shared memory; a full one ends a job with a bare "Bus error"."""
    bytes_per_batch = config.batch_size * config.crop_height * config.crop_width * (3 + 3 * 4 + 1)
    needed = config.workers * (BATCHES_UNDER_WAY + 1) * bytes_per_batch
    if config.workers and shutil.disk_usage(SHARED_MEMORY).free < needed:
        logger.warning(
            "%s is too small for workers=%d (%d MB needed): pictures are read in the training process; "
            "with docker run, --shm-size gives more",
            SHARED_MEMORY,
            config.workers,
            needed // 2**20,
        )
        return 0
    return config.workers
