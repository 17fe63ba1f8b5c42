"""The stream of training batches: a function of seed and step alone, so that a resumed job goes on exactly."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from surface_normals.training.augmentation import augment
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset, Sample

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's worker processes hand over their tensors
BATCHES_UNDER_WAY = 2  # for each worker; torch's default

Batch = tuple[Tensor, Tensor, Tensor]
"""picture uint8 (B, 3, H, W), normals float32 (B, 3, H, W), valid bool (B, H, W)"""


def steps_per_epoch(config: Config, num_samples: int) -> int:
    """The last batch of an epoch may be smaller."""
    return -(-num_samples // config.batch_size)


def training_batches(
    config: Config, dataset: PictureDataset, first_step: int, num_steps: int
) -> Iterator[Batch]:
    """The batches of steps `first_step` to `num_steps`. Raises ValueError for a damaged sample, naming its file."""
    loader = DataLoader(
        AugmentedSamples(config, dataset),
        batch_sampler=BatchPlan(config, len(dataset), first_step, num_steps),
        collate_fn=_collate,
        num_workers=_usable_workers(config),
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


class BatchPlan(Sampler[list[tuple[int, int]]]):
    """For each step the (epoch, index) pairs of its batch; every sample once an epoch, each epoch shuffled anew."""

    def __init__(self, config: Config, num_samples: int, first_step: int, num_steps: int) -> None:
        self.config, self.num_samples = config, num_samples
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        in_epoch = steps_per_epoch(self.config, self.num_samples)
        order_of: tuple[int, list[int]] = (-1, [])
        for step in self.steps:
            epoch, place = divmod(step, in_epoch)
            if order_of[0] != epoch:
                shuffle = np.random.default_rng((self.config.seed, epoch)).permutation
                order_of = (epoch, shuffle(self.num_samples).tolist())
            first = place * self.config.batch_size
            yield [(epoch, index) for index in order_of[1][first : first + self.config.batch_size]]


class AugmentedSamples(Dataset[Sample | ValueError]):
    """Augmented samples by (epoch, index); the augmentation is drawn from both and the seed.

    A damaged sample is returned as its ValueError: raised in a worker process, torch would wrap
    the one clear line into a traceback.
    """

    def __init__(self, config: Config, dataset: PictureDataset) -> None:
        self.config, self.dataset = config, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample | ValueError:
        config = self.config
        try:
            return augment(
                self.dataset[key[1]],
                np.random.default_rng((config.seed, *key)),
                height=config.crop_height,
                width=config.crop_width,
                flip=config.flip,
                jitter=config.brightness_jitter,
            )
        except ValueError as error:
            return error


def _collate(samples: list[Sample | ValueError]) -> Batch | ValueError:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    for sample in samples:
        if isinstance(sample, ValueError):
            return sample
    return (
        torch.from_numpy(np.stack([sample.picture for sample in good])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.normals for sample in good])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.valid for sample in good])),
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
