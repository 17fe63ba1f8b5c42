"""The bottom of the generator: solids in their own frames, met by rays, with closed-form normals.

Vectors are float64 of shape (3, N), one column per ray or point; a frame's origin is the solid's
centre and its z axis the solid's axis. Every shape offers the four members of `Shape`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Shape(Protocol):
    """A surface in its own frame. Lengths are metres; ray directions are unit vectors."""

    @property
    def bounding_radius(self) -> float:
        """Radius of a ball about the centre that holds the shape; infinite for a plane."""

    def extent(self, direction: Floats) -> float:
        """How far the shape reaches from its centre along a unit `direction` (3,)."""

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        """Distance (N,) from each origin (3, N) along its direction (3, N); infinite where nothing is met."""

    def normals(self, points: Floats) -> Floats:
        """Outward unit normals (3, N) at points (3, N) of the surface."""


@dataclass(frozen=True)
class Plane:
    """The disc z = 0 of a radius, infinite by default. Its normal is +z."""

    radius: float = np.inf

    @property
    def bounding_radius(self) -> float:
        return self.radius

    def extent(self, direction: Floats) -> float:
        return 0.0 if abs(direction[2]) == 1 else self.radius * float(np.hypot(direction[0], direction[1]))

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        distances = -origins[2] / _nonzero(directions[2])
        x, y = origins[:2] + distances * directions[:2]
        return _nearest((distances, x * x + y * y <= self.radius**2))

    def normals(self, points: Floats) -> Floats:
        normals = np.zeros_like(points)
        normals[2] = 1.0
        return normals


@dataclass(frozen=True)
class Sphere:
    radius: float

    @property
    def bounding_radius(self) -> float:
        return self.radius

    def extent(self, direction: Floats) -> float:
        return self.radius

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        middle = -dot(origins, directions)
        squared_half_chord = self.radius**2 - dot(origins, origins) + middle**2
        half_chord = np.sqrt(np.maximum(squared_half_chord, 0))
        met = squared_half_chord >= 0
        return _nearest((middle - half_chord, met), (middle + half_chord, met))

    def normals(self, points: Floats) -> Floats:
        return points / self.radius


@dataclass(frozen=True)
class Box:
    """`half_sizes`: half the edge lengths along x, y and z."""

    half_sizes: tuple[float, float, float]

    @property
    def bounding_radius(self) -> float:
        return float(np.linalg.norm(self.half_sizes))

    def extent(self, direction: Floats) -> float:
        return float(np.abs(direction) @ np.asarray(self.half_sizes))

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        half = np.asarray(self.half_sizes)[:, None]
        inverse = 1 / _nonzero(directions)
        one, other = (-half - origins) * inverse, (half - origins) * inverse
        enter, leave = np.minimum(one, other).max(axis=0), np.maximum(one, other).min(axis=0)
        return _nearest((enter, enter <= leave), (leave, enter <= leave))

    def normals(self, points: Floats) -> Floats:
        relative = points / np.asarray(self.half_sizes)[:, None]
        face = np.abs(relative).argmax(axis=0)[None]
        normals = np.zeros_like(points)
        np.put_along_axis(normals, face, np.sign(np.take_along_axis(relative, face, axis=0)), axis=0)
        return normals


@dataclass(frozen=True)
class Cylinder:
    """Closed by two flat caps."""

    radius: float
    half_height: float

    @property
    def bounding_radius(self) -> float:
        return float(np.hypot(self.radius, self.half_height))

    def extent(self, direction: Floats) -> float:
        return float(
            self.radius * np.hypot(direction[0], direction[1]) + self.half_height * abs(direction[2])
        )

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        (ox, oy, oz), (dx, dy, dz) = origins, directions
        real, near, far = _quadratic(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - self.radius**2)
        candidates = [(t, real & (np.abs(oz + t * dz) <= self.half_height)) for t in (near, far)]
        for height in (-self.half_height, self.half_height):
            candidates.append(_disc(origins, directions, height, self.radius))
        return _nearest(*candidates)

    def normals(self, points: Floats) -> Floats:
        x, y, z = points
        to_side = np.abs(self.radius - np.hypot(x, y))
        cap = np.abs(self.half_height - np.abs(z)) < to_side
        side = np.stack([x, y, np.zeros_like(z)]) / self.radius
        return np.where(cap, np.stack([0 * x, 0 * y, np.sign(z)]), side)


@dataclass(frozen=True)
class Cone:
    """Apex at z = +half_height, closed by a flat base of `radius` at z = -half_height."""

    radius: float
    half_height: float

    @property
    def bounding_radius(self) -> float:
        return float(np.hypot(self.radius, self.half_height))

    def extent(self, direction: Floats) -> float:
        across, along = float(np.hypot(direction[0], direction[1])), float(direction[2])
        return max(self.half_height * along, self.radius * across - self.half_height * along)

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        (ox, oy, oz), (dx, dy, dz) = origins, directions
        slope = self._slope
        below_apex = self.half_height - oz
        real, near, far = _quadratic(
            dx * dx + dy * dy - (slope * dz) ** 2,
            ox * dx + oy * dy + slope**2 * below_apex * dz,
            ox * ox + oy * oy - (slope * below_apex) ** 2,
        )
        candidates = [(t, real & (np.abs(oz + t * dz) <= self.half_height)) for t in (near, far)]
        return _nearest(*candidates, _disc(origins, directions, -self.half_height, self.radius))

    def normals(self, points: Floats) -> Floats:
        x, y, z = points
        from_axis = np.maximum(np.hypot(x, y), 1e-12)
        to_side = np.abs(self._slope * (self.half_height - z) - from_axis)
        base = np.abs(z + self.half_height) < to_side
        length = np.hypot(1.0, self._slope)
        side = np.stack([x / from_axis, y / from_axis, np.full_like(z, self._slope)]) / length
        return np.where(base, np.array([[0.0], [0.0], [-1.0]]), side)

    @property
    def _slope(self) -> float:
        return self.radius / (2 * self.half_height)


@dataclass(frozen=True)
class Torus:
    """A ring of radius `major` about z, thick by the radius `minor` < `major`."""

    major: float
    minor: float

    @property
    def bounding_radius(self) -> float:
        return self.major + self.minor

    def extent(self, direction: Floats) -> float:
        return float(self.major * np.hypot(direction[0], direction[1]) + self.minor)

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        # Counted from the ray's point nearest to the centre, the torus along the ray is
        # t^4 + p t^2 + q t + s without a cubic term: positive outside, negative inside.
        shift = dot(origins, directions)
        x, y, z = origins - shift * directions
        dx, dy, _ = directions
        k = x * x + y * y + z * z + self.major**2 - self.minor**2
        p = 2 * k - 4 * self.major**2 * (dx * dx + dy * dy)
        q = -8 * self.major**2 * (x * dx + y * dy)
        s = k * k - 4 * self.major**2 * (x * x + y * y)

        def value(t: Floats) -> Floats:
            return np.asarray(((t * t + p) * t + q) * t + s)

        # Between neighbouring extrema the quartic is monotone, so the first change of sign among
        # them holds the first root and nothing else: halving finds it, however grazing the ray.
        half_chord = np.sqrt(np.maximum(self.bounding_radius**2 - (x * x + y * y + z * z), 0))
        start = np.maximum(-half_chord, shift)
        end = np.maximum(half_chord, start)
        knots = np.stack([start, *np.clip(np.sort(_cubic_roots(p / 2, q / 4), axis=0), start, end), end])
        inside = value(knots) < 0
        changes = inside[1:] != inside[:-1]
        met = changes.any(axis=0)
        first = changes.argmax(axis=0)[None]
        low = np.take_along_axis(knots, first, axis=0)[0]
        high = np.take_along_axis(knots, first + 1, axis=0)[0]
        low_inside = np.take_along_axis(inside, first, axis=0)[0]
        for _ in range(50):
            middle = (low + high) / 2
            before_root = (value(middle) < 0) == low_inside
            low, high = np.where(before_root, middle, low), np.where(before_root, high, middle)
        return _nearest(((low + high) / 2 - shift, met))

    def normals(self, points: Floats) -> Floats:
        x, y, z = points
        to_ring = 1 - self.major / np.maximum(np.hypot(x, y), 1e-12)
        normals = np.stack([x * to_ring, y * to_ring, z])
        return np.asarray(normals / np.sqrt(dot(normals, normals)))


def _nearest(*candidates: tuple[Floats, Bools]) -> Floats:
    """The smallest positive distance (N,) among pairs (distances, where they count); else infinite."""
    nearest = np.full_like(candidates[0][0], np.inf)
    for distances, counts in candidates:
        nearest = np.where(counts & (distances > 0), np.minimum(nearest, distances), nearest)
    return nearest


def _quadratic(a: Floats, b: Floats, c: Floats) -> tuple[Bools, Floats, Floats]:
    """Where a t^2 + 2 b t + c = 0 has real roots, and the two roots in no order."""
    discriminant = b * b - a * c
    # The sum of like signs, so that neither root loses its digits.
    larger = -(b + np.copysign(np.sqrt(np.maximum(discriminant, 0)), b))
    return discriminant >= 0, larger / _nonzero(a), c / _nonzero(larger)


def _disc(origins: Floats, directions: Floats, height: float, radius: float) -> tuple[Floats, Bools]:
    """A candidate for `_nearest`: the disc of `radius` about the axis at z = `height`."""
    distances = (height - origins[2]) / _nonzero(directions[2])
    x, y = origins[:2] + distances * directions[:2]
    return distances, x * x + y * y <= radius**2


def _cubic_roots(p: Floats, q: Floats) -> Floats:
    """Real roots (3, N) of t^3 + p t + q by Cardano and Viete, a single one repeated three times."""
    half_q, third_p = q / 2, p / 3
    discriminant = half_q**2 + third_p**3
    u = -np.copysign(np.cbrt(np.abs(half_q) + np.sqrt(np.maximum(discriminant, 0))), half_q)
    single = u - third_p / _nonzero(u)
    radius = np.sqrt(np.maximum(-third_p, 0))
    angle = np.arccos(np.clip(-half_q / _nonzero(radius**3), -1, 1))
    triple = [2 * radius * np.cos((angle + turn) / 3) for turn in (0, 2 * np.pi, 4 * np.pi)]
    return np.where(discriminant > 0, single, np.stack(triple))


def _nonzero(values: Floats) -> Floats:
    """The values with those too near zero to divide by moved away from it."""
    return np.where(np.abs(values) < 1e-12, 1e-12, values)


def dot(a: Floats, b: Floats) -> Floats:
    """Dot products (N,) of vectors (3, N)."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def turn(rotation: Floats, vectors: Floats) -> Floats:
    """Vectors (3, N) turned by a rotation (3, 3)."""
    # Not `@`: a BLAS library would start threads for it, and the processes already fill the machine.
    return np.stack([dot(row, vectors) for row in rotation])
