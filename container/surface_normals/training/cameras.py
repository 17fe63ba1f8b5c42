"""The camera of a picture: where each pixel looks, and how that changes when the picture is changed.

Camera axes are x right, y down, z forward; the centre of the first pixel is at (0.5, 0.5), so that a
picture of width W spans 0 to W. Cameras that put it at (0, 0), as OpenCV does, have cx and cy smaller
by a half.
"""

import json
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surface_normals.network import ASSUMED_FIELD_OF_VIEW_DEGREES
from surface_normals.training.shards import StoredFile

EXAMPLE = '{"fx": 600, "fy": 600, "cx": 320, "cy": 240}'


class Intrinsics(NamedTuple):
    """Focal lengths and principal point of a pinhole camera, all in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    def cropped(self, left: int, top: int) -> "Intrinsics":
        """After a window was cut out that begins at (left, top)."""
        return self._replace(cx=self.cx - left, cy=self.cy - top)

    def scaled(self, x: float, y: float) -> "Intrinsics":
        """After a resize to `x` times the width and `y` times the height."""
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y)

    def mirrored(self, width: int) -> "Intrinsics":
        """After left and right of a picture of `width` changed places."""
        return self._replace(cx=width - self.cx)


UNKNOWN_CAMERA = Intrinsics(math.nan, math.nan, math.nan, math.nan)
"""Stands in a batch for a picture whose camera is unknown."""


def assumed_intrinsics(height: int, width: int) -> Intrinsics:
    """The camera that the network assumes where it is told none: it looks through the picture's middle."""
    focal = max(height, width) / 2 / math.tan(math.radians(ASSUMED_FIELD_OF_VIEW_DEGREES) / 2)
    return Intrinsics(focal, focal, width / 2, height / 2)


def rays(intrinsics: Intrinsics, height: int, width: int) -> NDArray[np.float32]:
    """Directions (H, W, 3) of the pixels' centres, with z = 1."""
    fx, fy, cx, cy = intrinsics
    directions = np.ones((height, width, 3), np.float32)
    directions[:, :, 0] = (np.arange(width) + 0.5 - cx) / fx
    directions[:, :, 1] = ((np.arange(height) + 0.5 - cy) / fy)[:, None]
    return directions


def read_intrinsics(path: StoredFile) -> Intrinsics:
    """A camera's JSON file. Raises ValueError naming it when it holds no camera."""
    try:
        values = json.loads(path.read_text())
        intrinsics = Intrinsics(*(float(values[name]) for name in Intrinsics._fields))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} must be JSON like {EXAMPLE}: {error!r}") from error
    if not all(map(math.isfinite, intrinsics)) or intrinsics.fx <= 0 or intrinsics.fy <= 0:
        raise ValueError(f"{path} holds no camera: {intrinsics}")
    return intrinsics
