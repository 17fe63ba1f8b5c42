"""Random changes of a training sample that keep its truth true."""

from dataclasses import replace

import numpy as np

from surface_normals.codecs import Picture
from surface_normals.training.dataset import Sample


def augment(
    sample: Sample, random: np.random.Generator, *, height: int, width: int, flip: bool, jitter: float
) -> Sample:
    """A crop of exactly (height, width), perhaps mirrored, with its brightness and contrast changed."""
    sample = crop(sample, random, height, width)
    if flip and random.random() < 0.5:
        sample = mirror(sample)
    return replace(sample, picture=change_light(sample.picture, random, jitter))


def mirror(sample: Sample) -> Sample:
    """Left becomes right: the picture is reversed, and so is the x component of every normal."""
    normals = sample.normals[:, ::-1] * np.array([-1, 1, 1], np.float32)
    return replace(sample, picture=sample.picture[:, ::-1], normals=normals, valid=sample.valid[:, ::-1])


def crop(sample: Sample, random: np.random.Generator, height: int, width: int) -> Sample:
    """A random window of (height, width); what lies beyond a smaller picture is black and invalid."""
    have_height, have_width = sample.valid.shape
    top = int(random.integers(0, max(0, have_height - height) + 1))
    left = int(random.integers(0, max(0, have_width - width) + 1))
    window = (slice(top, top + height), slice(left, left + width))
    picture, normals, valid = sample.picture[window], sample.normals[window], sample.valid[window]
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]))
    return replace(
        sample,
        picture=np.pad(picture, (*missing, (0, 0))),
        normals=np.pad(normals, (*missing, (0, 0))),
        valid=np.pad(valid, missing),
    )


def change_light(picture: Picture, random: np.random.Generator, strength: float) -> Picture:
    """Contrast and brightness, each by up to `strength` (a share of the full range)."""
    contrast, brightness = 1 + strength * random.uniform(-1, 1, 2)
    levels = np.arange(256, dtype=np.float32)
    table = (((levels - 127.5) * contrast + 127.5) * brightness).clip(0, 255).astype(np.uint8)
    changed: Picture = table[picture]
    return changed
