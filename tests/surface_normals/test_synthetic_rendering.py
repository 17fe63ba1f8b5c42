"""Pictures of worlds simple enough to know every pixel's truth by hand."""

import numpy as np
import pytest

from surface_normals.training.synthetic.camera import Camera, look_at
from surface_normals.training.synthetic.rendering import Ambient, Light, Surface, World, picture
from surface_normals.training.synthetic.shapes import Box, Plane, Sphere
from surface_normals.training.synthetic.textures import PATTERNS, Texture

WIDTH, HEIGHT, FOCAL = 81, 61, 70.0
CENTRE = (HEIGHT // 2, WIDTH // 2)
PLAIN = Texture("plain", np.full(3, 0.6), np.full(3, 0.6), 1.0, np.eye(3), np.zeros(3), 0)
NORTH = np.array([0.0, 1.0, 0.0])
V, U = np.mgrid[0:HEIGHT, 0:WIDTH]
RAYS = np.stack([(U - (WIDTH - 1) / 2) / FOCAL, (V - (HEIGHT - 1) / 2) / FOCAL, np.ones(U.shape)], axis=-1)


def seen_from(camera, *surfaces, lights=(), ambient=0.3):
    """A noiseless picture of plain surfaces under light without tint or lean."""
    world = World(
        camera=camera,
        surfaces=surfaces,
        lights=lights,
        ambient=Ambient(np.full(3, ambient), np.array([0.0, 0.0, 1.0]), 0.0),
        backdrop=PLAIN,
        exposure=0.8,
        sensor_noise=0.0,
    )
    return picture(world, np.random.default_rng(0))


def level_camera(position=(0.0, 0.0, 0.0)) -> Camera:
    """Looks north, so that its x, y, z are the world's east, down, north."""
    position = np.array(position)
    return look_at(position, position + NORTH, 0.0, FOCAL, WIDTH, HEIGHT)


def surface(shape, position, rotation=None, **more):
    return Surface(shape, np.array(position), np.eye(3) if rotation is None else rotation, PLAIN, **more)


def facing_south():
    """Turns a plane's z axis towards a camera that looks north."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


@pytest.mark.parametrize("turn", [1, -1], ids=["front", "back"])
def test_a_wall_across_the_view_faces_the_camera(turn):
    """Also the back of a plane, whose own normal points away."""
    scene = seen_from(level_camera(), surface(Plane(), [0.0, 2.5, 0.0], turn * facing_south()))
    assert scene.valid.all()
    assert scene.normals == pytest.approx(np.broadcast_to([0.0, 0.0, -1.0], RAYS.shape), abs=1e-7)
    assert scene.depth == pytest.approx(np.full(scene.depth.shape, 2.5))


def test_the_floor_of_a_level_camera_points_up():
    scene = seen_from(level_camera([0.0, 0.0, 1.5]), surface(Plane(), [0.0, 0.0, 0.0]))
    below = V > (HEIGHT - 1) / 2
    assert (scene.valid == below).all()
    assert scene.normals[below] == pytest.approx(
        np.broadcast_to([0.0, -1.0, 0.0], (below.sum(), 3)), abs=1e-7
    )
    assert scene.depth[below] == pytest.approx((1.5 / RAYS[below][:, 1]), rel=1e-6)
    assert not scene.normals[~below].any()
    assert not scene.depth[~below].any()


def test_what_is_seen_too_flatly_for_16_bits_is_not_valid():
    """Just below the horizon, where rounding a normal could turn it away from the camera."""
    camera = look_at(np.array([0.0, 0.0, 1.5]), np.array([0.0, 1.0, 1.5]), 0.0, 4000.0, WIDTH, HEIGHT)
    scene = seen_from(camera, surface(Plane(), [0.0, 0.0, 0.0]))
    assert (scene.valid == (V - CENTRE[0] > 8)).all()


def test_a_sphere_before_the_camera_is_the_textbooks_one():
    distance, radius = 3.0, 0.7
    scene = seen_from(level_camera(), surface(Sphere(radius), [0.0, distance, 0.0]))
    # |z ray - centre| = radius, solved for the nearer z.
    squared = (RAYS**2).sum(axis=-1)
    discriminant = distance**2 - squared * (distance**2 - radius**2)
    assert (scene.valid == (discriminant > 0))[np.abs(discriminant) > 1e-3].all()
    inner = discriminant > 1e-3
    depth = (distance - np.sqrt(discriminant[inner])) / squared[inner]
    assert scene.depth[inner] == pytest.approx(depth, rel=1e-6)
    normals = (depth[:, None] * RAYS[inner] - [0, 0, distance]) / radius
    assert scene.normals[inner] == pytest.approx(normals, abs=1e-6)
    assert scene.normals[CENTRE] == pytest.approx([0, 0, -1], abs=1e-7)
    assert scene.depth[CENTRE] == pytest.approx(distance - radius)


def test_a_box_seen_edge_on_shows_two_faces():
    half = np.sqrt(0.5)
    turned = np.array([[half, -half, 0.0], [half, half, 0.0], [0.0, 0.0, 1.0]])
    scene = seen_from(level_camera(), surface(Box((0.6, 0.6, 2.0)), [0.0, 3.0, 0.0], turned))
    row = scene.normals[CENTRE[0]][scene.valid[CENTRE[0]]]
    assert row[0] == pytest.approx([-half, 0, -half], abs=1e-6)
    assert row[-1] == pytest.approx([half, 0, -half], abs=1e-6)
    assert len(np.unique(row.round(5), axis=0)) == 2


def test_the_nearer_surface_hides_the_farther():
    wall = surface(Plane(), [0.0, 3.0, 0.0], facing_south())
    ball = surface(Sphere(0.3), [0.0, 2.0, 0.0])
    for surfaces in ([wall, ball], [ball, wall]):
        depth = seen_from(level_camera(), *surfaces).depth
        assert depth[CENTRE] == pytest.approx(1.7)
        assert depth[0, 0] == pytest.approx(3.0)


def test_light_falls_off_with_the_cosine():
    sun = Light(np.array([-600.0, -800.0, 0.0]), np.ones(3), reach=1000.0)
    scene = seen_from(level_camera(), surface(Sphere(0.9), [0.0, 3.0, 0.0]), lights=[sun], ambient=1e-3)
    to_light = np.array([-0.6, 0.0, -0.8])  # the sun in camera axes
    cosine = np.maximum(scene.normals @ to_light, 0)
    linear = (scene.image[..., 0] / 255.0) ** 2.2
    lit = scene.valid & (cosine > 0.05) & (linear < 0.95)
    gain = linear[lit] / cosine[lit]
    assert lit.sum() > 400
    assert gain == pytest.approx(np.full(gain.shape, np.median(gain)), rel=0.1)
    assert linear[scene.valid & (scene.normals @ to_light < -0.01)].max() < 0.01


def test_a_shadow_lies_where_the_ball_hides_the_sun_and_nowhere_else():
    """Every pixel of the floor has one of two colours: no speckles, no light leaking in."""
    camera = look_at(np.array([0.0, -4.0, 3.0]), np.array([0.0, 0.0, 0.0]), 0.0, FOCAL, WIDTH, HEIGHT)
    centre, radius, to_sun = np.array([0.0, 0.0, 0.5]), 0.5, np.array([0.6, 0.0, 0.8])
    scene = seen_from(
        camera,
        surface(Plane(), [0.0, 0.0, 0.0]),
        surface(Sphere(radius), centre),
        lights=[Light(1e6 * to_sun, np.ones(3), reach=1e6)],
    )
    points = camera.position + (scene.depth[..., None] * RAYS) @ camera.rotation
    floor = np.abs(points[..., 2]) < 1e-3
    to_centre = centre - points
    along = to_centre @ to_sun
    miss = np.sqrt((to_centre**2).sum(axis=-1) - along**2) - radius
    clear = floor & (np.abs(miss) > 1e-2)
    shaded = scene.image[clear & (miss < 0)]
    sunny = scene.image[clear & (miss > 0)]
    assert len(shaded) > 50
    assert len(np.unique(shaded)) == len(np.unique(sunny)) == 1
    assert shaded.max() < sunny.min() - 50


@pytest.mark.parametrize("pattern", PATTERNS)
def test_textures_stay_between_their_colours(pattern):
    points = np.random.default_rng(0).uniform(-50, 50, (3, 5000))
    dark, light = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.4, 0.9])
    texture = Texture(pattern, dark, light, 0.4, np.eye(3), np.full(3, 7.3), noise_seed=5)
    albedo = texture.albedo(points)
    assert (albedo >= dark[:, None] - 1e-6).all()
    assert (albedo <= light[:, None] + 1e-6).all()
    if pattern != "plain":
        assert np.ptp(albedo, axis=1) == pytest.approx(light - dark, rel=0.4)
