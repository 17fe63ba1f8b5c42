"""Random worlds: which solids stand where, how they are painted and lit, and where the camera is.

The world's z axis points up; the floor is z = 0. Lights, textures and camera are drawn independently,
so that nothing but the geometry explains the shading ("bright means up" must not be learnable).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from .camera import Camera, look_at
from .rendering import Ambient, Light, Scene, Surface, World, picture
from .shapes import Box, Cone, Cylinder, Floats, Plane, Shape, Sphere, Torus
from .textures import PATTERNS, Texture

SOLIDS = {"box": 0.35, "sphere": 0.2, "cylinder": 0.2, "cone": 0.125, "torus": 0.125}
"""How often each is drawn where all are allowed."""

KINDS = {
    "objects": "one to three solids fill most of the picture, on a table or before a background without depth",
    "rooms": "the inside of a room of 3 to 7 metres with three to eight solids in it",
    "mixed": "half `objects`, half `rooms`",
}


@dataclass(frozen=True)
class Look:
    """How hard the pictures are to read. Pairs are the ends of the range that a scene's value is drawn from."""

    solids: tuple[str, ...] = ("box", "sphere", "cylinder", "cone", "torus")
    """Which of SOLIDS stand in the scene. Flat faces at any angle are the hardest to read."""
    upright: float = 0.5
    """Share of the solids on a table of `objects` that stand upright; the others rest at any angle."""
    texture_contrast: tuple[float, float] = (0.0, 0.5)
    """How much darker than its surroundings a texture's dark colour is; 0 paints every solid evenly."""
    lights: tuple[int, int] = (1, 3)
    """Number of lights with shadows."""
    ambient_share: tuple[float, float] = (0.15, 0.4)
    """Share of the light that has no shadows; at 1 only its lean tells one face from another."""
    ambient_lean: float = 0.6
    """How uneven the shadowless light is, 0 to 1: what shading is left inside shadows."""
    gloss: float = 0.4
    """Strength of highlights on the glossiest solids."""
    sensor_noise: float = 0.015
    """Standard deviation of the noise at white, as a share of white."""


def render(seed: int, width: int, height: int, kind: str = "mixed", look: Look | None = None) -> Scene:
    """The picture of a random world and its truth: the same for the same arguments.

    `kind` is one of KINDS; `width` and `height` are pixels, 16 at least. Raises ValueError on others.
    """
    check_picture(width, height, kind)
    generator = np.random.default_rng(seed)
    if kind == "mixed":
        kind = str(generator.choice(["objects", "rooms"]))
    compose = compose_room if kind == "rooms" else compose_objects
    return picture(compose(generator, width, height, look or Look()), generator)


def check_picture(width: int, height: int, kind: str) -> None:
    """Raise ValueError unless `render` takes these."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if width < 16 or height < 16:
        raise ValueError(f"a picture of {width} x {height} pixels is too small: 16 x 16 is the least")


def compose_objects(generator: np.random.Generator, width: int, height: int, look: Look) -> World:
    """One to three solids close to the camera, on a round table or floating."""
    on_table = generator.random() < 0.7
    solids: list[Surface] = []
    for _ in range(generator.choice([1, 1, 2, 3])):
        size = generator.uniform(0.6, 1.0) if not solids else generator.uniform(0.35, 0.8)
        for _ in range(20):
            shape, rotation = (
                _random_solid(generator, look, size),
                _random_pose(generator, upright=look.upright * on_table),
            )
            position = np.array([0.0, 0.0, _rest_height(shape, rotation)])
            if solids:
                apart = solids[0].shape.bounding_radius + shape.bounding_radius
                beside = _direction(generator.uniform(0, 2 * np.pi), 0.0)
                position += generator.uniform(0.85, 1.1) * apart * beside
            if not on_table:
                position[2] = generator.uniform(-0.4, 0.4)
            if _is_free(position, shape, solids):
                solids.append(Surface(shape, position, rotation, _random_texture(generator, look)))
                break
    elevation = generator.uniform(0.15, 1.0) if on_table else generator.uniform(-1.2, 1.2)
    view = _direction(generator.uniform(0, 2 * np.pi), elevation)
    camera, reach = _frame(generator, solids, view, _random_focal(generator, width), width, height)

    lowest = 0.25 if on_table else -1.3
    directions = [
        _direction(generator.uniform(0, 2 * np.pi), generator.uniform(lowest, 1.3))
        for _ in range(generator.integers(look.lights[0], look.lights[1], endpoint=True))
    ]
    lights = _share_light(generator, look, [100.0 * d for d in directions], reach=100.0)
    surfaces = list(solids)
    if on_table:
        table = Plane(radius=reach * generator.uniform(2.0, 4.0))
        texture = _random_texture(generator, look)
        surfaces.append(Surface(table, np.zeros(3), np.eye(3), texture, casts_shadow=False))
    return _world(generator, look, camera, surfaces, lights)


def compose_room(generator: np.random.Generator, width: int, height: int, look: Look) -> World:
    """A box-shaped room seen from inside, with three to eight solids on its floor or hung in the air."""
    size = np.array([generator.uniform(3, 7), generator.uniform(3, 7), generator.uniform(2.3, 3.4)])
    surfaces = _walls(generator, look, size)
    focal = _random_focal(generator, width)
    # Near a wall and looking at the room's other side, so that the picture is not one bare wall.
    azimuth = generator.uniform(0, 2 * np.pi)
    outward = _direction(azimuth, 0.0)
    position = 0.5 * size + 0.42 * size * np.clip(outward * 1.3, -1, 1)
    position[2] = generator.uniform(0.9, 1.9)
    target = 0.5 * size - 0.15 * size * outward + generator.normal(0, 0.3, 3)
    target[2] = generator.uniform(0.2, 1.5)
    camera = look_at(position, target, generator.normal(0, 0.05), focal, width, height)

    solids: list[Surface] = []
    wanted = generator.integers(3, 8, endpoint=True)
    for attempt in count():
        if len(solids) == wanted:
            break
        shrink = 0.5 ** (attempt / (20 * wanted))  # what finds no place is tried smaller
        shape = _random_solid(generator, look, shrink * generator.uniform(0.3, 0.75))
        rotation = _random_pose(generator, upright=0.6)
        reach = np.array([shape.extent(rotation.T @ axis) for axis in np.eye(3)])
        place = generator.uniform(reach, size - reach)
        if generator.random() < 0.75:
            place[2] = _rest_height(shape, rotation)
        apart = float(np.linalg.norm(place - position))
        if apart > shape.bounding_radius + 0.7 and camera.sees(place) and _is_free(place, shape, solids):
            solids.append(Surface(shape, place, rotation, _random_texture(generator, look)))

    places = []
    for _ in range(generator.integers(look.lights[0], look.lights[1], endpoint=True)):
        for _ in range(20):
            place = generator.uniform([0.4, 0.4, 0.4 * size[2]], size - 0.3)
            if _is_free(place, Sphere(0.1), solids):
                places.append(place)
                break
    lights = _share_light(generator, look, places, reach=float(np.linalg.norm(size)) / 2)
    return _world(generator, look, camera, [*surfaces, *solids], lights)


def _walls(generator: np.random.Generator, look: Look, size: Floats) -> list[Surface]:
    """Floor, ceiling and four walls of a room from the origin to `size`; the walls are painted alike."""
    wall, floor, ceiling = (_random_texture(generator, look) for _ in range(3))
    surfaces = []
    for axis in range(3):
        # Turns the plane's z axis into this one.
        rotation = np.roll(np.eye(3), axis + 1, axis=0)
        for end in (0.0, size[axis]):
            texture = wall if axis < 2 else ceiling if end else floor
            surfaces.append(Surface(Plane(), end * np.eye(3)[axis], rotation, texture, casts_shadow=False))
    return surfaces


def _random_solid(generator: np.random.Generator, look: Look, size: float) -> Shape:
    """A solid about `size` metres from its centre to its rim."""
    shares = np.array([SOLIDS[name] for name in look.solids])
    kind = generator.choice(look.solids, p=shares / shares.sum())
    if kind == "box":
        x, y, z = size * generator.uniform(0.4, 0.9, 3)
        return Box((float(x), float(y), float(z)))
    if kind == "sphere":
        return Sphere(0.85 * size)
    if kind == "cylinder":
        return Cylinder(size * generator.uniform(0.35, 0.75), size * generator.uniform(0.4, 0.9))
    if kind == "cone":
        return Cone(size * generator.uniform(0.55, 0.9), size * generator.uniform(0.5, 0.9))
    major = size * generator.uniform(0.6, 0.75)
    return Torus(major, major * generator.uniform(0.3, 0.6))


def _random_pose(generator: np.random.Generator, upright: float) -> Floats:
    """A rotation (3, 3): about the vertical axis only with probability `upright`, else any."""
    if generator.random() < upright:
        angle = generator.uniform(0, 2 * np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return _random_rotation(generator)


def _random_rotation(generator: np.random.Generator) -> Floats:
    """Any rotation (3, 3), evenly distributed: a random unit quaternion's."""
    w, x, y, z = (q := generator.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _rest_height(shape: Shape, rotation: Floats) -> float:
    """Height of the centre when the shape touches the floor from above."""
    return shape.extent(-rotation[2])


def _is_free(position: Floats, shape: Shape, solids: Sequence[Surface]) -> bool:
    """Whether a shape's ball keeps out of the others', a little overlap of the balls allowed."""
    return all(
        np.linalg.norm(position - solid.position)
        > 0.85 * (shape.bounding_radius + solid.shape.bounding_radius)
        for solid in solids
    )


def _frame(
    generator: np.random.Generator,
    solids: Sequence[Surface],
    view: Floats,
    focal: float,
    width: int,
    height: int,
) -> tuple[Camera, float]:
    """A camera in the direction `view` (3,) from which the solids about fill the picture; their reach in metres."""
    roll = generator.normal(0, 0.06)
    axes = look_at(view, np.zeros(3), roll, focal, width, height).rotation
    high, low = (
        [
            max(sign * axis @ s.position + s.shape.extent(sign * s.rotation.T @ axis) for s in solids)
            for axis in axes
        ]
        for sign in (1, -1)
    )
    middle, half = (np.array(high) - low) / 2, (np.array(high) + low) / 2
    fitting = focal * max(half[0] / (width / 2), half[1] / (height / 2))
    distance = fitting / generator.uniform(0.75, 1.1) + 0.6 * half[2]
    target = axes.T @ (middle + generator.normal(0, 0.1, 3) * half)
    position = target + max(distance, 1.4 * half[2]) * view
    return look_at(position, target, roll, focal, width, height), float(half.max())


def _random_focal(generator: np.random.Generator, width: int) -> float:
    """Focal length in pixels of a horizontal field of view between 35 and 75 degrees."""
    return float(width / 2 / np.tan(np.radians(generator.uniform(35, 75)) / 2))


def _random_texture(generator: np.random.Generator, look: Look) -> Texture:
    """A pattern, colours and place in space drawn at random."""
    hue, saturation = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.45)
    tint = 1 + saturation * np.cos(hue - np.array([0, 2, 4]) * np.pi / 3)
    light = np.clip(generator.uniform(0.3, 0.75) * tint, 0.02, 0.95)
    dark = light * (1 - generator.uniform(*look.texture_contrast) * generator.uniform(0.6, 1.0, 3))
    return Texture(
        pattern=str(generator.choice(PATTERNS)),
        dark=dark,
        light=light,
        period=float(generator.uniform(0.25, 0.8)),
        rotation=_random_rotation(generator),
        offset=generator.uniform(0, 100, 3),
        noise_seed=int(generator.integers(2**31)),
        gloss=float(look.gloss * generator.random() * (generator.random() < 0.4)),
    )


def _dimmed(texture: Texture, share: float) -> Texture:
    return replace(texture, dark=share * texture.dark, light=share * texture.light)


def _share_light(
    generator: np.random.Generator, look: Look, places: Sequence[Floats], reach: float
) -> tuple[list[Light], Ambient]:
    """Lights at `places` and an ambient that together have the strength 1, each with a slight tint."""
    ambient_share = generator.uniform(*look.ambient_share)
    strengths = generator.uniform(0.4, 1.0, len(places))
    strengths *= (1 - ambient_share) / strengths.sum()
    lights = [
        Light(place, strength * generator.uniform(0.85, 1.15, 3), reach)
        for place, strength in zip(places, strengths, strict=True)
    ]
    lean = _random_rotation(generator)[0]
    return lights, Ambient(ambient_share * generator.uniform(0.9, 1.1, 3), lean, look.ambient_lean)


def _world(
    generator: np.random.Generator,
    look: Look,
    camera: Camera,
    surfaces: Sequence[Surface],
    lights: tuple[list[Light], Ambient],
) -> World:
    return World(
        camera=camera,
        surfaces=surfaces,
        lights=lights[0],
        ambient=lights[1],
        backdrop=_dimmed(_random_texture(generator, look), generator.uniform(0.1, 0.8)),
        exposure=float(generator.uniform(0.5, 0.9)),
        sensor_noise=look.sensor_noise,
    )


def _direction(azimuth: float, elevation: float) -> Floats:
    """The unit vector (3,) at angles in radians, elevation counted from the horizon."""
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
