"""What the surfaces are painted with: solid patterns in space that know nothing of the shape they cover."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .shapes import Floats, turn

Singles = npt.NDArray[np.float32]

PATTERNS = ("plain", "mottled", "marble", "stripes", "checks", "spots")
LATTICE = 256


@dataclass(frozen=True)
class Texture:
    """A pattern that goes from the albedo `dark` to `light` (linear RGB, 0 to 1).

    `period` is the length of one repeat in metres. `rotation` (3, 3) and `offset` (3,) place the
    pattern in space; drawn at random, they keep it independent of the faces it falls on.
    `noise_seed` chooses the noise.
    """

    pattern: str
    dark: Floats
    light: Floats
    period: float
    rotation: Floats
    offset: Floats
    noise_seed: int
    gloss: float = 0.0

    def albedo(self, points: Floats) -> Floats:
        """Linear RGB (3, N) at points (3, N)."""
        placed = turn(self.rotation, points) / self.period + self.offset[:, None]
        amount = _pattern(self.pattern, placed.astype(np.float32), self.noise_seed)
        return self.dark[:, None] + (self.light - self.dark)[:, None] * amount


def _pattern(name: str, points: Singles, noise_seed: int) -> Singles:
    """The amount (N,), 0 to 1, of the light colour at points (3, N) counted in periods."""
    if name == "plain":
        return np.zeros_like(points[0])
    noise = _Noise(noise_seed)
    if name == "mottled":
        return noise.fractal(2 * points)
    if name == "marble":
        return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * points[0] + 5 * noise.fractal(points)))
    if name == "stripes":
        wobbled = points[0] + 0.15 * noise.smooth(points)
        return _step(np.sin(2 * np.pi * wobbled) / 0.3)
    if name == "checks":
        return _step(np.prod(np.sin(np.pi * points), axis=0) / 0.08)
    if name == "spots":
        return _step((noise.smooth(3 * points) - 0.62) / 0.06)
    raise ValueError(f"pattern {name!r} is not one of {', '.join(PATTERNS)}")


def _step(values: Singles) -> Singles:
    """A soft step from 0 to 1 between -1 and 1: a hard one would sparkle where it is finer than a pixel."""
    ramp = np.clip(values / 2 + 0.5, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


class _Noise:
    """Smooth random values, 0 to 1, on a cubic lattice of unit cells that repeats every LATTICE cells."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._order = np.tile(generator.permutation(LATTICE), 2)
        self._values = np.tile(generator.random(LATTICE, dtype=np.float32), 2)

    def smooth(self, points: Singles) -> Singles:
        floor = np.floor(points)
        fraction = points - floor
        fx, fy, fz = fraction * fraction * (3 - 2 * fraction)
        x, y, z = floor.astype(np.int64) % LATTICE
        planes = []
        for along_x in (self._order[x], self._order[x + 1]):
            lines = []
            for along_y in (self._order[along_x + y], self._order[along_x + y + 1]):
                first, second = self._values[along_y + z], self._values[along_y + z + 1]
                lines.append(first + (second - first) * fz)
            planes.append(lines[0] + (lines[1] - lines[0]) * fy)
        return np.asarray(planes[0] + (planes[1] - planes[0]) * fx)

    def fractal(self, points: Singles) -> Singles:
        """Three octaves, each twice as fine and half as strong."""
        octaves = [self.smooth(points * 2**octave) / 2**octave for octave in range(3)]
        return np.asarray(sum(octaves) / 1.75)
