"""From a described world to a picture and its truth: camera rays, nearest surfaces, light, sensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .camera import Camera
from .shapes import Bools, Floats, Shape, dot, turn
from .textures import Texture

SHADOW_OFFSET_METRES = 1e-6
"""A shadow ray starts this far above its surface, or rounding would let the surface shade itself."""
GRAZING_COSINE = 2e-3
"""Pixels seen flatter than this are not valid: 16-bit normals could not say which side is visible."""


@dataclass(frozen=True)
class Surface:
    """A shape in the world: a world point is `rotation` @ local point + `position`."""

    shape: Shape
    position: Floats
    rotation: Floats
    texture: Texture
    casts_shadow: bool = True

    def intersect(self, origins: Floats, directions: Floats) -> Floats:
        """Distance (N,) along world rays (3, N); infinite where nothing is met."""
        from_centre = origins - self.position[:, None]
        nearest_along = -dot(from_centre, directions)
        squared_distance = dot(from_centre, from_centre)
        # Most rays miss most solids: only those that meet the bounding ball pay for the real test.
        radius_squared = self.shape.bounding_radius**2
        near = squared_distance - nearest_along**2 <= radius_squared
        near &= (nearest_along > 0) | (squared_distance <= radius_squared)
        rays = np.flatnonzero(near)
        distances = np.full(directions.shape[1], np.inf)
        distances[rays] = self.shape.intersect(
            turn(self.rotation.T, from_centre[:, rays]), turn(self.rotation.T, directions[:, rays])
        )
        return distances

    def local(self, points: Floats) -> Floats:
        return turn(self.rotation.T, points - self.position[:, None])

    def normals(self, points: Floats) -> Floats:
        """Outward unit normals (3, N) in the world at world points (3, N)."""
        return turn(self.rotation, self.shape.normals(self.local(points)))


@dataclass(frozen=True)
class Light:
    """A small lamp: irradiance `color` (RGB) at the distance `reach` metres. The sun is one far away."""

    position: Floats
    color: Floats
    reach: float


@dataclass(frozen=True)
class Ambient:
    """Light from everywhere, `lean` (0 to 1) of it more from the unit vector `direction`."""

    color: Floats
    direction: Floats
    lean: float


@dataclass(frozen=True)
class World:
    """Everything a picture is made of.

    `exposure` is the brightness of the brightest tenth of the surfaces, 1 being the sensor's white;
    `backdrop` is seen, unlit and without depth, where there is no surface.
    """

    camera: Camera
    surfaces: Sequence[Surface]
    lights: Sequence[Light]
    ambient: Ambient
    backdrop: Texture
    exposure: float
    sensor_noise: float


@dataclass(frozen=True)
class Scene:
    """A picture and its truth. Camera axes: x right, y down, z forward.

    `image` uint8 (H, W, 3) RGB; `normals` float32 (H, W, 3), unit, facing the camera, zero where not
    valid; `depth` float32 (H, W), z in metres, zero where not valid; `valid` bool (H, W);
    `intrinsics` (fx, fy, cx, cy) in pixels, pixel centres at integer coordinates.
    """

    image: npt.NDArray[np.uint8]
    normals: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]
    valid: Bools
    intrinsics: tuple[float, float, float, float]


def picture(world: World, generator: np.random.Generator) -> Scene:
    """Render `world`; `generator` draws the sensor's noise."""
    camera = world.camera
    rays = camera.rays()
    directions = turn(camera.rotation.T, rays)
    distances, which = trace(world.surfaces, camera.position[:, None], directions)
    hit = np.flatnonzero(np.isfinite(distances))
    points = camera.position[:, None] + distances[hit] * directions[:, hit]
    normals, albedo, gloss = _surface_properties(world.surfaces, which[hit], points)
    cosine = dot(normals, directions[:, hit])
    normals = np.where(cosine > 0, -normals, normals)

    radiance = world.backdrop.albedo(directions)
    radiance[:, hit] = _shade(world, points, normals, albedo, gloss, directions[:, hit])

    # Exposed for the surfaces, not for what is behind them.
    bright = np.percentile(radiance[:, hit].mean(axis=0), 90) if hit.size else radiance.max()
    exposed = radiance * (world.exposure / bright)

    valid = np.zeros(distances.shape, dtype=bool)
    valid[hit] = np.abs(cosine) > GRAZING_COSINE
    truth = np.zeros_like(rays)
    truth[:, hit] = turn(camera.rotation, normals)
    shape = (camera.height, camera.width)
    return Scene(
        image=_develop(exposed, world.sensor_noise, generator).T.reshape(*shape, 3),
        normals=np.where(valid, truth, 0).T.reshape(*shape, 3).astype(np.float32),
        depth=np.where(valid, distances * rays[2], 0).reshape(shape).astype(np.float32),
        valid=valid.reshape(shape),
        intrinsics=camera.intrinsics,
    )


def trace(
    surfaces: Sequence[Surface], origins: Floats, directions: Floats
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Distance (N,) to the nearest surface along each ray, infinite for none, and that surface's index."""
    nearest = np.full(directions.shape[1], np.inf)
    which = np.zeros(directions.shape[1], dtype=np.intp)
    for index, surface in enumerate(surfaces):
        distances = surface.intersect(np.broadcast_to(origins, directions.shape), directions)
        closer = distances < nearest
        nearest[closer], which[closer] = distances[closer], index
    return nearest, which


def _surface_properties(
    surfaces: Sequence[Surface], which: npt.NDArray[np.intp], points: Floats
) -> tuple[Floats, Floats, Floats]:
    """Normals (3, N), albedo (3, N) and gloss (N,) at points (3, N) of the surfaces `which` (N,)."""
    normals, albedo, gloss = np.zeros_like(points), np.zeros_like(points), np.zeros(points.shape[1])
    for index, surface in enumerate(surfaces):
        mine = np.flatnonzero(which == index)
        normals[:, mine] = surface.normals(points[:, mine])
        albedo[:, mine] = surface.texture.albedo(surface.local(points[:, mine]))
        gloss[mine] = surface.texture.gloss
    return normals, albedo, gloss


def _shade(
    world: World, points: Floats, normals: Floats, albedo: Floats, gloss: Floats, directions: Floats
) -> Floats:
    """Linear RGB (3, N): Lambert's law for every light not in shadow, a soft highlight, and the ambient."""
    ambient = world.ambient
    lean = 1 + ambient.lean * dot(ambient.direction[:, None], normals)
    radiance = albedo * ambient.color[:, None] * lean
    casters = [surface for surface in world.surfaces if surface.casts_shadow]
    for light in world.lights:
        to_light = light.position[:, None] - points
        distances = np.sqrt(dot(to_light, to_light))
        to_light /= distances
        facing = np.flatnonzero(dot(to_light, normals) > 0)
        starts = points[:, facing] + SHADOW_OFFSET_METRES * normals[:, facing]
        blocked, _ = trace(casters, starts, to_light[:, facing])
        lit = facing[blocked >= distances[facing]]
        cosine = dot(to_light[:, lit], normals[:, lit])
        half_way = to_light[:, lit] - directions[:, lit]
        half_way /= np.sqrt(dot(half_way, half_way))
        highlight = gloss[lit] * dot(half_way, normals[:, lit]) ** 40
        # A lamp has a size: what is next to it is bright, not infinitely so.
        falloff = 1.2 / ((distances[lit] / light.reach) ** 2 + 0.2)
        irradiance = light.color[:, None] * falloff
        radiance[:, lit] += irradiance * (albedo[:, lit] * cosine + highlight)
    return radiance


def _develop(exposed: Floats, sensor_noise: float, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Linear RGB (3, N), 1 being white, to bytes: shot and read noise, gamma 2.2."""
    noise = generator.standard_normal(exposed.shape) * sensor_noise
    noisy = exposed + noise * np.sqrt(exposed + 0.02)
    return np.asarray(255 * np.clip(noisy, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)
