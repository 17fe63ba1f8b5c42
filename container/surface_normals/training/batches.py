"""The stream of training batches: a function of seed and step alone, so that a resumed job goes on exactly."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from surface_normals.training.augmentation import augment, hide_camera, strength, window_sizes
from surface_normals.training.cameras import UNKNOWN_CAMERA
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset, StoredSample
from surface_normals.training.distributed import Ranks
from surface_normals.training.shares import Share, TrainingPictures

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's worker processes hand over their tensors
MIN_VALID_SHARE = 0.01
"""Of a window's pixels with truth; the few of another do not count, they are mostly faults."""
BATCHES_UNDER_WAY = 2  # for each worker; torch's default


@dataclass(frozen=True)
class Key:
    """What one sample of a batch is to be."""

    epoch: int
    index: int
    counts: bool = True
    window: tuple[int, int] | None = None
    """height and width, the same in a batch; None stands for the crop's own"""


class Batch(NamedTuple):
    """One rank's part of a step's batch."""

    picture: Tensor
    """uint8 (B, 3, H, W)"""
    vectors: Tensor
    """(B, H, W, 3), normals in the numbers of their files"""
    valid: Tensor
    """bool (B, H, W), false where a file says that there is no truth"""
    turns: Tensor
    """float32 (B, 3, 3): what `unit_normals` makes of these three is the truth, in `rdf`"""
    names: tuple[str, ...]
    intrinsics: Tensor
    """float32 (B, 4): fx, fy, cx, cy in the pixels of `picture`; NaN where the camera is unknown"""


def training_batches(
    config: Config, pictures: PictureDataset | TrainingPictures, first_step: int, num_steps: int
) -> Iterator[Batch]:
    """This rank's part of the batches of steps `first_step` to `num_steps`.

    Raises ValueError for a damaged sample, naming its file.
    """
    ranks = Ranks()
    share = Share.of_all(len(pictures), ranks) if isinstance(pictures, PictureDataset) else pictures.share
    # Hosts with other pictures draw other numbers; seeds are below 2**31.
    config = replace(config, seed=config.seed + share.group * 2**31)
    level = strength(config.augment, config.epochs * len(pictures))
    windows = window_sizes(config.crop_height, config.crop_width, level)
    loader = DataLoader(
        AugmentedSamples(config, pictures),
        batch_sampler=BatchPlan(config, share, windows, first_step, num_steps),
        collate_fn=_collate,
        num_workers=_usable_workers(config, ranks),
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


class BatchPlan(Sampler[list[Key]]):
    """For each step the keys of this rank's samples; every sample once an epoch, each epoch shuffled anew.

    The order is the same for any number of ranks that have the same pictures: they share each batch out
    among them. A rank that gets nothing takes samples that do not count, to keep step with the others.
    """

    def __init__(
        self, config: Config, share: Share, windows: list[tuple[int, int]], first_step: int, num_steps: int
    ) -> None:
        self.config, self.share, self.windows = config, share, windows
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        in_epoch = self.share.steps_per_epoch(self.config.pictures_a_step)
        # All ranks divide a step into as many portions as the smallest of their batches allows.
        fewest = self.config.accumulate if len(self.share.groups) > 1 else 1
        drawn_for, order, windows = -1, [0], [0]
        for step in self.steps:
            epoch, place = divmod(step, in_epoch)
            if drawn_for != epoch:
                random = np.random.default_rng((self.config.seed, epoch))
                drawn_for, order = epoch, random.permutation(self.share.num_pictures).tolist()
                windows = random.integers(len(self.windows), size=in_epoch).tolist()
            batch = self.share.batch(order, place, self.config.pictures_a_step)
            window = self.windows[windows[place]]
            own = [Key(epoch, index, window=window) for index in self.share.own(batch)]
            stand_in = Key(epoch, (batch or order or [0])[0], counts=False, window=window)
            yield own + [stand_in] * (fewest - len(own))


class AugmentedSamples(Dataset[StoredSample | ValueError]):
    """Augmented samples by key; the augmentation is drawn from epoch, index and the seed.

    A damaged sample is returned as its ValueError: raised in a worker process, torch would wrap
    the one clear line into a traceback.
    """

    def __init__(self, config: Config, pictures: PictureDataset | TrainingPictures) -> None:
        self.config, self.pictures = config, pictures
        self.level = strength(config.augment, config.epochs * len(pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: Key) -> StoredSample | ValueError:
        config = self.config
        height, width = key.window or (config.crop_height, config.crop_width)
        random = np.random.default_rng((config.seed, key.epoch, key.index))
        try:
            sample = augment(
                self.pictures.stored(key.index),
                random,
                height=height,
                width=width,
                level=self.level,
                roll_degrees=config.roll_degrees,
            )
        except ValueError as error:
            return error
        if config.intrinsics == "given":  # drawn last: all else is as it is with any other camera
            sample = hide_camera(sample, random)
        counts = key.counts and sample.valid.mean() >= MIN_VALID_SHARE
        return sample if counts else replace(sample, valid=np.zeros_like(sample.valid))


def _collate(samples: list[StoredSample | ValueError]) -> Batch | ValueError:
    good = [sample for sample in samples if isinstance(sample, StoredSample)]
    for sample in samples:
        if isinstance(sample, ValueError):
            return sample
    return Batch(
        torch.from_numpy(np.stack([sample.picture for sample in good])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([sample.vectors for sample in good])),
        torch.from_numpy(np.stack([sample.valid for sample in good])),
        torch.from_numpy(np.stack([sample.turn for sample in good])),
        tuple(sample.name for sample in good),
        torch.tensor([sample.intrinsics or UNKNOWN_CAMERA for sample in good], dtype=torch.float32),
    )


def _usable_workers(config: Config, ranks: Ranks) -> int:
    """Worker processes of each rank that fit into shared memory; a full one ends a job with a bare "Bus error"."""
    if config.workers == 0:
        return 0
    bytes_per_batch = config.pictures_a_step * config.crop_height * config.crop_width * (3 + 3 * 4 + 1)
    free_bytes = shutil.disk_usage(SHARED_MEMORY).free  # before a rank beside this one fills it
    bytes_per_worker = (BATCHES_UNDER_WAY + 1) * bytes_per_batch * ranks.beside(SHARED_MEMORY)
    usable = min(config.workers, free_bytes // bytes_per_worker)
    if usable < config.workers:
        logger.warning(
            "%s has %d MB free, workers=%d need %d MB: %s; with docker run, --shm-size gives more",
            SHARED_MEMORY,
            free_bytes // 2**20,
            config.workers,
            config.workers * bytes_per_worker // 2**20,
            f"{usable} will read" if usable else "pictures are read in the training process",
        )
    return usable
