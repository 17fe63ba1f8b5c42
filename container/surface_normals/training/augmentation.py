"""Random changes of a training sample that keep its truth, and its camera, true."""

from dataclasses import replace

import numpy as np
from PIL import Image

from surface_normals.training import photometry
from surface_normals.training.cameras import assumed_intrinsics
from surface_normals.training.dataset import Sample

MIRRORED_SHARE = 0.5
SMALLEST_WINDOW = 0.5
"""of the largest that fits into the picture; smaller ones show too little to tell what is seen"""


def augment(
    sample: Sample, random: np.random.Generator, *, height: int, width: int, level: str, roll_degrees: float
) -> Sample:
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


def mirror(sample: Sample) -> Sample:
    """Left becomes right: the picture is reversed, and so is the x component of every normal."""
    return replace(
        sample,
        picture=sample.picture[:, ::-1],
        normals=sample.normals[:, ::-1] * np.array([-1, 1, 1], np.float32),
        valid=sample.valid[:, ::-1],
        intrinsics=sample.intrinsics and sample.intrinsics.mirrored(sample.valid.shape[1]),
    )


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
        intrinsics=sample.intrinsics and sample.intrinsics.cropped(left, top),
    )


def zoom(sample: Sample, random: np.random.Generator, height: int, width: int) -> Sample:
    """A random window with the proportions of (height, width), brought to that size.

    Its sides are SMALLEST_WINDOW to 1 of those of the largest that fits.
    """
    have_height, have_width = sample.valid.shape
    scale = min(have_height / height, have_width / width) * random.uniform(SMALLEST_WINDOW, 1)
    window = crop(sample, random, max(1, round(height * scale)), max(1, round(width * scale)))
    return resize(window, height, width)


def resize(sample: Sample, height: int, width: int) -> Sample:
    """The sample at another size. A normal is taken from the nearest pixel: a mean of two is on neither surface."""
    have_height, have_width = sample.valid.shape
    rows = ((np.arange(height) + 0.5) * have_height / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * have_width / width).astype(np.intp)
    picture = Image.fromarray(sample.picture).resize((width, height), Image.Resampling.BILINEAR)
    return replace(
        sample,
        picture=np.asarray(picture),
        normals=sample.normals[rows[:, None], columns],
        valid=sample.valid[rows[:, None], columns],
        intrinsics=sample.intrinsics and sample.intrinsics.scaled(width / have_width, height / have_height),
    )


def roll(sample: Sample, degrees: float) -> Sample:
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
    valid = sample.valid[source] & inside
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    normals = np.where(valid[:, :, None], sample.normals[source] @ turn, np.float32(0))
    return replace(sample, picture=np.asarray(picture), normals=normals, valid=valid)
