"""What drift is watched by: one number each for how a picture looks, and for what the network made of it.

The reference is made of the same numbers at the end of training (training/reference.py).
"""

import numpy as np
from numpy.typing import NDArray

FIGURES = (
    "brightness", "contrast", "saturation", "sharpness", "long_side_pixels",
    "normal_right", "normal_down", "normal_towards_camera", "expected_error_degrees",
)  # fmt: skip
GRID = 96
"""Every so manieth part of the longer side is looked at: enough for means, and as fast for a large picture."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601's weights of red, green and blue."""
FAR = 8
"""Pixels over which a blur of the usual size changes nothing."""


def describe(
    picture: NDArray[np.uint8], normals: NDArray[np.float32], expected_error_degrees: NDArray[np.float32]
) -> dict[str, float]:
    """The FIGURES of one picture (H, W, 3), its normals (H, W, 3) in `rdf`, and their expected errors (H, W).

    brightness, contrast    mean and standard deviation of the luma, 0 to 1
    saturation              mean of (max - min) / max over red, green and blue, 0 to 1
    sharpness               mean difference of green from the next pixel, divided by that from the one 8 pixels on:
                            blur lowers it, darkness does not; 0 where all is alike or at most 8 wide
    normal_...              means over the picture, -1 to 1
    """
    height, width = picture.shape[:2]
    step = max(1, max(height, width) // GRID)
    colours = picture[::step, ::step].astype(np.float32) / 255
    luma, brightest = colours @ LUMA, colours.max(axis=2)
    rows = picture[::step, :, 1].astype(np.int16)
    far = np.abs(rows[:, FAR:] - rows[:, :-FAR])
    right, down, forward = normals[::step, ::step].mean(axis=(0, 1), dtype=np.float64)
    values = (
        luma.mean(),
        luma.std(),
        ((brightest - colours.min(axis=2)) / np.maximum(brightest, 1 / 255)).mean(),
        np.abs(np.diff(rows, axis=1)).mean() / far.mean() if far.any() else 0.0,
        max(height, width),
        right,
        down,
        -forward,
        expected_error_degrees[::step, ::step].mean(),
    )
    return {name: float(value) for name, value in zip(FIGURES, values, strict=True)}
