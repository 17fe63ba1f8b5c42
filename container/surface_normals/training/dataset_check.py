"""Before the training money is spent: does a channel hold what its dataset.json says?

Whether the axes are right can be seen: a surface that is in the picture faces the camera, so its normal n
and the pixel's ray r have n . r < 0. Of the conventions only the right one makes that so everywhere.
"""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from surface_normals import axes
from surface_normals.training.cameras import assumed_intrinsics, rays
from surface_normals.training.dataset import PictureDataset, StoredSample
from surface_normals.training.shards import StoredFile, size_bytes
from surface_normals.training.truth import MIN_LENGTH, components

logger = logging.getLogger(__name__)

SAMPLES_AT_START = 32
REFUSED_BELOW, FITS_FROM = 0.95, 0.99
"""Shares of pixels that face the camera: under the declared axes, and under those that are named instead."""
UNIT_TOLERANCE = 0.05
PIXELS_A_SIDE = 240
"""Of a larger picture every second, third, ... row and column is looked at."""
LEVEL = 0.8
MIN_LEVEL_SHARE = 0.02


@dataclass
class Findings:
    """What the samples that were looked at hold. Shares are of valid pixels, None where there are none."""

    dataset: PictureDataset
    looked_at: int = 0
    damaged: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """pictures by (width, height)"""
    pixels: int = 0
    valid: int = 0
    unit: int = 0
    facing: Counter[str] = field(default_factory=Counter)
    """valid pixels that face the camera under each convention"""
    level: int = 0
    """pixels of the lower third whose surface is about level, under any convention"""
    level_up: int = 0
    """of these, those that point up under the declared one"""
    cameras_known: int = 0

    def share(self, count: int) -> float | None:
        return count / self.valid if self.valid else None

    def facing_share(self, convention: str) -> float | None:
        return self.share(self.facing[convention])

    @property
    def up_share(self) -> float | None:
        """Share of the level pixels in the lower third that point up; None when these are too few to tell."""
        return self.level_up / self.level if self.level > MIN_LEVEL_SHARE * self.valid else None

    @property
    def refusal(self) -> str | None:
        """Why training would be in vain, with the declaration that would fit; None when nothing speaks against it."""
        if self.damaged:
            return self.damaged[0]
        if not self.valid:
            return f"channel {self.dataset.channel!r}: no pixel of the {self.looked_at} pictures read has a normal"
        declared = self.dataset.description.axes
        fitting = [name for name in axes.TO_RDF if (self.facing_share(name) or 0) >= FITS_FROM]
        share = self.facing_share(declared) or 0
        if share >= REFUSED_BELOW or not fitting:
            return None
        # With few side walls or floors two conventions can fit: the one whose floors point up comes first.
        fitting.sort(key=lambda name: (self._keeps_floors_up(name), self.facing[name]), reverse=True)
        named = " or ".join(f'"{name}" ({100 * (self.facing_share(name) or 0):.1f} %)' for name in fitting)
        return (
            f"channel {self.dataset.channel!r}: only {100 * share:.1f} % of the surfaces face the camera with the "
            f'axes "{declared}" of {self.dataset.described_in}; what fits is {named}'
        )

    def _keeps_floors_up(self, convention: str) -> bool:
        same_y = axes.TO_RDF[convention][1] == axes.TO_RDF[self.dataset.description.axes][1]
        return self.up_share is None or (self.up_share >= 0.5) == same_y

    def warnings(self, crop: tuple[int, int] | None = None) -> list[str]:
        """What looks wrong but may be meant. `crop` is the (height, width) of training."""
        found = []
        facing, unit, valid = (
            self.facing_share(self.dataset.description.axes),
            self.share(self.unit),
            self.valid / max(1, self.pixels),
        )
        if facing is not None and facing < REFUSED_BELOW:
            found.append(
                f"only {100 * facing:.1f} % of the surfaces face the camera, and no other axes make it "
                f"{100 * FITS_FROM:.0f} %: are the normals in camera space, not in the world's, and the cameras right?"
            )
        if unit is not None and unit < REFUSED_BELOW:
            found.append(
                f"only {100 * unit:.1f} % of the normals have length 1: are they coded as dataset.json says, "
                "0..1 for -1..1 in pictures, -1..1 in arrays?"
            )
        if valid < 0.1:
            found.append(f"only {100 * valid:.1f} % of the pixels have a normal")
        if self.up_share is not None and self.up_share < 0.5:
            found.append(
                f"of the level surfaces in the lower third only {100 * self.up_share:.0f} % point up: "
                "is y the other way round?"
            )
        if crop:
            small = sum(n for (width, height), n in self.sizes.items() if height < crop[0] or width < crop[1])
            if small:
                found.append(
                    f"{small} of {self.looked_at} pictures are smaller than the training crop of {crop[1]}x{crop[0]}, "
                    "which stays black beyond them: set crop_height and crop_width to what your pictures have"
                )
        return [f"channel {self.dataset.channel!r}: {text}" for text in found]


def spread(total: int, count: int) -> list[int]:
    """At most `count` indices below `total`, evenly spread from the first to the last."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def inspect(
    dataset: PictureDataset, indices: Iterable[int], should_stop: Callable[[], bool] = lambda: False
) -> Findings:
    """Read these samples, until a stop, and measure them. A damaged one is noted, not raised."""
    findings = Findings(dataset)
    for index in indices:
        if should_stop():
            break
        findings.looked_at += 1
        try:
            sample = dataset.stored(index)
        except ValueError as error:
            findings.damaged.append(str(error))
        else:
            _add(findings, sample, dataset.description.axes)
    return findings


def _add(findings: Findings, stored: StoredSample, declared: str) -> None:
    height, width = stored.valid.shape
    findings.sizes[width, height] += 1
    findings.cameras_known += stored.intrinsics is not None
    stride = max(1, min(height, width) // PIXELS_A_SIDE)
    seen = (slice(None, None, stride), slice(None, None, stride))
    vectors = components(torch.from_numpy(stored.vectors[seen].copy())).numpy()
    valid = stored.valid[seen]
    length = np.linalg.norm(vectors, axis=2)
    valid = valid & np.isfinite(length) & (length > MIN_LENGTH)
    findings.pixels += valid.size
    findings.valid += int(valid.sum())
    findings.unit += int((np.abs(length[valid] - 1) < UNIT_TOLERANCE).sum())
    directions = rays(stored.intrinsics or assumed_intrinsics(height, width), height, width)[
        ::stride, ::stride
    ]
    towards = (vectors * directions)[valid]
    for name, signs in axes.TO_RDF.items():
        findings.facing[name] += int((towards @ np.array(signs, np.float32) < 0).sum())
    lower = valid & (np.arange(valid.shape[0]) >= valid.shape[0] * 2 / 3)[:, None]
    heights = vectors[lower][:, 1] / length[lower] * axes.TO_RDF[declared][1]
    findings.level += int((np.abs(heights) > LEVEL).sum())
    findings.level_up += int((heights < -LEVEL).sum())  # y points down


def shared_pictures(
    first: PictureDataset, second: PictureDataset, indices: Iterable[int] | None = None
) -> list[tuple[str, str]]:
    """Pairs of names, one of each data set, whose picture files hold the same bytes.

    Only pictures of the second at `indices` are looked for, all when None. A file is read only when
    one of the other data set has its size.
    """
    by_size: dict[int, list[str]] = {}
    for name, path in first.images.items():
        by_size.setdefault(size_bytes(path), []).append(name)

    @functools.cache
    def digest(path: StoredFile) -> bytes:
        return hashlib.sha256(path.read_bytes()).digest()

    names = second.names if indices is None else [second.names[index] for index in indices]
    return [
        (other, name)
        for name in names
        for other in by_size.get(size_bytes(second.images[name]), [])
        if digest(first.images[other]) == digest(second.images[name])
    ]


def check_before_training(
    training_set: PictureDataset,
    validation_set: PictureDataset | None,
    crop: tuple[int, int],
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Look at a few samples of each channel: seconds, whatever its size. Warnings go to the log.

    A stop cuts it short. Raises ValueError, in one line, when a sample is damaged or other axes than the declared fit.
    """
    for dataset in filter(None, (training_set, validation_set)):
        looked_at = spread(len(dataset), SAMPLES_AT_START)
        logger.info(
            "channel %r: %d pictures, looking at %d of them", dataset.channel, len(dataset), len(looked_at)
        )
        findings = inspect(dataset, looked_at, should_stop)
        if should_stop():
            return
        if findings.refusal:
            raise ValueError(findings.refusal)
        for warning in findings.warnings(crop if dataset is training_set else None):
            logger.warning("%s", warning)
    if validation_set:
        looked_for = spread(len(validation_set), SAMPLES_AT_START)
        if shared := shared_pictures(training_set, validation_set, looked_for):
            logger.warning(
                "%d of %d pictures of channel %r are also in channel %r, the first is %s: "
                "measured on these, the model looks better than it is",
                len(shared),
                len(looked_for),
                validation_set.channel,
                training_set.channel,
                shared[0][1],
            )
