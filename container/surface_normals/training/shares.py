"""Start of a training run: the pictures that each process was given, and what falls to it of each step.

Mostly every host has all pictures (FullyReplicated), and the ranks share out each batch. With ShardedByS3Key
each host has others, not always as many, perhaps none: its ranks go through those alone.
"""

import logging
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from surface_normals.training.dataset import PictureDataset, StoredSample, fingerprint_of
from surface_normals.training.distributed import Ranks, share_of
from surface_normals.training.loose_files import walk

logger = logging.getLogger(__name__)

CURE = (
    "the hosts hold different files: set the channel's S3DataDistributionType to FullyReplicated, or pack the pictures "
    "into tar files, as ShardedByS3Key may give a picture to one host and its normals to another"
)
DESCRIPTIONS = ("dataset.json", "cameras.json")


@dataclass(frozen=True)
class Share:
    """A rank's place among those that have the same pictures, a group, and how many pictures each group has."""

    groups: tuple[tuple[int, int], ...]
    """(pictures, ranks) of each group; no picture is in two"""
    group: int
    rank: int
    """in its group"""

    @classmethod
    def of_all(cls, num_pictures: int, ranks: Ranks) -> "Share":
        """Of pictures that every rank has."""
        return cls(((num_pictures, ranks.count),), 0, ranks.rank)

    @property
    def num_pictures(self) -> int:
        """Of this rank's group."""
        return self.groups[self.group][0]

    def described(self) -> str:
        return ", ".join(f"{pictures} on {ranks} process(es)" for pictures, ranks in self.groups)

    def steps_per_epoch(self, batch_size: int) -> int:
        """A step takes up to `batch_size` pictures on each rank; the group with most for each needs all steps."""
        return max(-(-pictures // (batch_size * ranks)) for pictures, ranks in self.groups)

    def batch(self, order: list[int], place: int, batch_size: int) -> list[int]:
        """What the group's ranks take of their pictures in the epoch's step `place`.

        One group fills its batches and leaves a small one for the end. Of several each spreads its pictures evenly
        over the epoch, which would otherwise end with those of the largest group alone.
        """
        if len(self.groups) > 1:
            return share_of(order, place, self.steps_per_epoch(batch_size))
        size = batch_size * self.groups[0][1]
        return order[place * size : (place + 1) * size]

    def own(self, batch: list[int]) -> list[int]:
        """This rank's part of its group's batch, which may be nothing."""
        return share_of(batch, self.rank, self.groups[self.group][1])


class TrainingPictures:
    """Channel `train` of the whole job, of which this rank may have a part; every rank makes one.

    Raises ValueError when there is nothing to train on, on all ranks.
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder
        self.dataset, found = _open("train", folder, ranks)
        """This rank's part, None where its host was given no picture."""
        with_pictures = [rank for rank, fingerprint in enumerate(found) if fingerprint]
        if len(set(found)) == 1:
            self.fingerprint, self.share = found[0], Share.of_all(len(self.dataset or ()), ranks)
        else:
            self.fingerprint, self.share = _shares(self.dataset, found, ranks)
            if ranks.is_leader:
                logger.info("the hosts have different pictures: %s", self.share.described())
        if len(with_pictures) < ranks.count:
            lent = ranks.together(lambda: self._first_sample(ranks.rank == with_pictures[0]))
            self._stand_in = lent[with_pictures[0]]

    def __len__(self) -> int:
        """The pictures of all hosts."""
        return sum(pictures for pictures, _ in self.share.groups)

    def stored(self, index: int) -> StoredSample:
        """One of this rank's pictures; one of another host where this one has none."""
        if self.dataset is None:
            assert self._stand_in is not None
            return self._stand_in
        return self.dataset.stored(index)

    def _first_sample(self, is_lender: bool) -> StoredSample | None:
        return self.dataset.stored(0) if self.dataset and is_lender else None


def open_validation(folder: Path | None, ranks: Ranks) -> PictureDataset | None:
    """Channel `validation`; None where the job has none. Raises ValueError, on all ranks."""
    dataset, found = _open("validation", folder, ranks)
    if len(set(found)) > 1:
        raise ValueError(
            "channel 'validation': the hosts were given different pictures, and the first host measures with all of "
            "them: set this channel's S3DataDistributionType to FullyReplicated"
        )
    return dataset


def _open(channel: str, folder: Path | None, ranks: Ranks) -> tuple[PictureDataset | None, list[str]]:
    """This rank's pictures, None where there are none, and each rank's fingerprint, "" where there are none."""
    dataset, problem = None, ""
    try:
        if folder is not None and (ranks.count == 1 or _has_any(folder)):
            dataset = PictureDataset(channel, folder)
    except ValueError as error:
        problem = str(error)
    found = ranks.gather((problem, dataset.fingerprint if dataset else ""))
    if problems := [text for text, _ in found if text]:
        raise ValueError(problems[0] + (f"; {CURE}" if len(set(found)) > 1 else ""))
    fingerprints = [fingerprint for _, fingerprint in found]
    if folder is not None and not any(fingerprints):
        raise ValueError(f"channel {channel!r}: no host was given a picture in {folder}")
    return dataset, fingerprints


def _shares(dataset: PictureDataset | None, found: list[str], ranks: Ranks) -> tuple[str, Share]:
    """The fingerprint of all pictures and this rank's share of them, `found` being each rank's fingerprint.

    Groups stand in the order of their names: what a step is made of does not hang on which host has which.
    Raises ValueError where groups have pictures in common.
    """
    is_first = found.index(found[ranks.rank]) == ranks.rank
    lists = ranks.gather(dataset.names if dataset and is_first else [])
    names = {fingerprint: lists[found.index(fingerprint)] for fingerprint in found}
    order = sorted(names, key=lambda fingerprint: (not names[fingerprint], names[fingerprint][:1]))
    together = sorted(chain.from_iterable(names.values()))
    if twice := next((first for first, second in pairwise(together) if first == second), None):
        raise ValueError(
            f"channel 'train': the hosts have some pictures in common, {twice} for one, and others not: give them all "
            "the same (FullyReplicated), or each its own (ShardedByS3Key)"
        )
    own = found[ranks.rank]
    share = Share(
        tuple((len(names[fingerprint]), found.count(fingerprint)) for fingerprint in order),
        order.index(own),
        found[: ranks.rank].count(own),
    )
    return fingerprint_of(together), share


def _has_any(folder: Path) -> bool:
    """Whether there is any file but a description of others: S3 may have given all of them to other hosts."""
    return any(path.name not in DESCRIPTIONS for path in walk(folder))
