"""The eye of the generator: a pinhole camera, its rays, and how it is pointed at something."""

from dataclasses import dataclass

import numpy as np

from .shapes import Floats, dot


@dataclass(frozen=True)
class Camera:
    """A pinhole. Camera axes are x right, y down, z forward; pixel centres have integer coordinates.

    `rotation` (3, 3) has the camera's axes in world coordinates as its rows; `focal` is in pixels.
    """

    position: Floats
    rotation: Floats
    focal: float
    width: int
    height: int

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy) in pixels."""
        return self.focal, self.focal, (self.width - 1) / 2, (self.height - 1) / 2

    def rays(self) -> Floats:
        """Unit directions (3, H * W) of the pixels in camera axes, row by row."""
        fx, fy, cx, cy = self.intrinsics
        v, u = np.mgrid[0 : self.height, 0 : self.width].reshape(2, -1)
        directions = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)])
        return np.asarray(directions / np.sqrt(dot(directions, directions)))

    def sees(self, point: Floats) -> bool:
        """Whether a world point (3,) falls into the picture, unless something hides it."""
        x, y, z = self.rotation @ (point - self.position)
        beside, above = abs(x) * self.focal, abs(y) * self.focal
        return bool(z > 0 and beside < z * self.width / 2 and above < z * self.height / 2)


def look_at(position: Floats, target: Floats, roll: float, focal: float, width: int, height: int) -> Camera:
    """A camera at `position` that looks at `target`, turned by `roll` radians about its own axis."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    return Camera(position, rotation, focal, width, height)
