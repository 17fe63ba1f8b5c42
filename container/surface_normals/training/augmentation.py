"""Random changes of a training sample that keep its truth, and its camera, true."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from surface_normals.training import photometry
from surface_normals.training.cameras import assumed_intrinsics
from surface_normals.training.dataset import StoredSample

MIRRORED_SHARE = 0.5
SMALLEST_WINDOW = 0.5
"""of the largest that fits into the picture; smaller ones show too little to tell what is seen"""
HIDDEN_CAMERAS_SHARE = 0.5
"""Endpoints and measurements know no camera: half of what a network with intrinsics=given learns is to do without."""
FULL_FROM = 100_000
"""Pictures shown in a run (epochs x pictures) from which `auto` is `full`: strong changes slow short runs down."""


PROPORTIONS = (0.5, 0.71, 1.0, 1.41, 2.0)
"""Of `full`'s windows, each a batch's: width to height, as a share of the crop's. Panoramas and portraits occur too."""
WINDOW_MULTIPLE = 32  # what the crop's own sides are multiples of


def strength(level: str, num_shown: int) -> str:
    """The level itself, or what `auto` stands for in a run that shows so many pictures, each as often as it does."""
    if level != "auto":
        return level
    return "full" if num_shown >= FULL_FROM else "light"


def augment(
    sample: StoredSample,
    random: np.random.Generator,
    *,
    height: int,
    width: int,
    level: str,
    roll_degrees: float,
) -> StoredSample:
    """A window of the sample, (height, width), changed as `level` says; all that is random comes from `random`.

    `none` cuts the window and no more, `light` also mirrors and changes brightness and contrast, `full`
    takes windows of other sizes and changes the picture as cameras and files do.
    """
    if roll_degrees:
        sample = roll(sample, random.uniform(-roll_degrees, roll_degrees))
    sample = (zoom if level == "full" else crop)(sample, random, height, width)
    if level != "none" and random.random() < MIRRORED_SHARE:
        sample = mirror(sample)
    if level == "light":
        return replace(sample, picture=photometry.change_light(sample.picture, random))
    if level == "full":
        return replace(sample, picture=photometry.change_camera(sample.picture, random))
    return sample


def window_sizes(height: int, width: int, level: str) -> list[tuple[int, int]]:
    """The (height, width) that a batch may have: all of about the same area, so that each needs the same memory."""
    if level != "full":
        return [(height, width)]
    scales = (share**0.5 for share in PROPORTIONS)
    return [(_to_multiple(height / scale), _to_multiple(width * scale)) for scale in scales]


def _to_multiple(side: float) -> int:
    return max(1, round(side / WINDOW_MULTIPLE)) * WINDOW_MULTIPLE


def hide_camera(sample: StoredSample, random: np.random.Generator) -> StoredSample:
    """The sample without its camera, in a share of the cases."""
    return replace(sample, intrinsics=None) if random.random() < HIDDEN_CAMERAS_SHARE else sample


def mirror(sample: StoredSample) -> StoredSample:
    """Left becomes right: the picture is reversed, and so is the x component of every normal."""
    return replace(
        sample,
        picture=_mirrored(sample.picture),
        vectors=_mirrored(sample.vectors),
        valid=_mirrored(sample.valid),
        turn=sample.turn * np.array([-1, 1, 1], np.float32),
        intrinsics=sample.intrinsics and sample.intrinsics.mirrored(sample.valid.shape[1]),
    )


def crop(sample: StoredSample, random: np.random.Generator, height: int, width: int) -> StoredSample:
    """A random window of (height, width); what lies beyond a smaller picture is black and invalid."""
    have_height, have_width = sample.valid.shape
    top = int(random.integers(0, max(0, have_height - height) + 1))
    left = int(random.integers(0, max(0, have_width - width) + 1))
    window = (slice(top, top + height), slice(left, left + width))
    cut = replace(
        sample,
        picture=sample.picture[window],
        vectors=sample.vectors[window],
        valid=sample.valid[window],
        intrinsics=sample.intrinsics and sample.intrinsics.cropped(left, top),
    )
    return cut if cut.valid.shape == (height, width) else _padded(cut, height, width)


def zoom(sample: StoredSample, random: np.random.Generator, height: int, width: int) -> StoredSample:
    """A random window with the proportions of (height, width), brought to that size.

    Its sides are SMALLEST_WINDOW to 1 of those of the largest that fits.
    """
    have_height, have_width = sample.valid.shape
    scale = min(have_height / height, have_width / width) * random.uniform(SMALLEST_WINDOW, 1)
    window = crop(sample, random, max(1, round(height * scale)), max(1, round(width * scale)))
    return resize(window, height, width)


def resize(sample: StoredSample, height: int, width: int) -> StoredSample:
    """The sample at another size. A normal is taken from the nearest pixel: a mean of two is on neither surface."""
    have_height, have_width = sample.valid.shape
    rows = ((np.arange(height) + 0.5) * have_height / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * have_width / width).astype(np.intp)
    picture = Image.fromarray(sample.picture).resize((width, height), Image.Resampling.BILINEAR)
    return replace(
        sample,
        picture=np.array(picture),
        vectors=sample.vectors[rows[:, None], columns],
        valid=sample.valid[rows[:, None], columns],
        intrinsics=sample.intrinsics and sample.intrinsics.scaled(width / have_width, height / have_height),
    )


def roll(sample: StoredSample, degrees: float) -> StoredSample:
    """The picture turned clockwise about the principal point, as when the camera rolls; its normals turn with it.

    What comes into view is black and invalid. The camera's intrinsics stay as they are.
    """
    height, width = sample.valid.shape
    fx, fy, cx, cy = sample.intrinsics or assumed_intrinsics(height, width)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # From a pixel of the result to the place that it shows, both with pixel centres at +0.5, as Pillow has them.
    # Pixels need not be square: it is the rays that turn.
    u_u, u_v, v_u, v_v = cos, sin * fx / fy, -sin * fy / fx, cos
    u_0, v_0 = cx - u_u * cx - u_v * cy, cy - v_u * cx - v_v * cy
    picture = Image.fromarray(sample.picture).transform(
        (width, height),
        Image.Transform.AFFINE,
        (u_u, u_v, u_0, v_u, v_v, v_0),
        resample=Image.Resampling.BILINEAR,
    )
    u, v = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    columns = np.floor(u_u * u + u_v * v + u_0).astype(np.intp)
    rows = np.floor(v_u * u + v_v * v + v_0).astype(np.intp)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    source = (rows.clip(0, height - 1), columns.clip(0, width - 1))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    return replace(
        sample,
        picture=np.array(picture),
        vectors=sample.vectors[source],
        valid=sample.valid[source] & inside,
        turn=sample.turn @ turn,
    )


def _padded(sample: StoredSample, height: int, width: int) -> StoredSample:
    have_height, have_width = sample.valid.shape
    missing = ((0, height - have_height), (0, width - have_width))
    return replace(
        sample,
        picture=np.pad(sample.picture, (*missing, (0, 0))),
        vectors=np.pad(sample.vectors, (*missing, (0, 0))),
        valid=np.pad(sample.valid, missing),
    )


def _mirrored(array: NDArray[Any]) -> NDArray[Any]:
    """Left and right exchanged, through torch: numpy copies a reversed view ten times as slowly."""
    return torch.from_numpy(array).flip(1).numpy()
