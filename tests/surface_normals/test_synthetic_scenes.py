"""Random scenes: the truth against depth, and what a kind promises."""

import functools

import numpy as np
import pytest

from surface_normals.training.synthetic import KINDS, Look, render
from surface_normals.training.synthetic.scenes import compose_objects
from surface_normals.training.synthetic.shapes import Cylinder, Plane, Torus

WIDTH, HEIGHT = 120, 90
SEEDS = range(12)


@functools.cache
def scenes(kind):
    return [render(seed, WIDTH, HEIGHT, kind) for seed in SEEDS]


def rays(scene):
    """The pixels' directions (H, W, 3) with z = 1."""
    fx, fy, cx, cy = scene.intrinsics
    v, u = np.mgrid[0 : scene.depth.shape[0], 0 : scene.depth.shape[1]]
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], axis=-1)


def normals_of_depth(scene):
    """Unit normals (H, W, 3) by central differences, and where (H, W) depth is smooth enough for them."""
    points = scene.depth[..., None].astype(np.float64) * rays(scene)
    across, down = np.zeros_like(points), np.zeros_like(points)
    across[:, 1:-1] = points[:, 2:] - points[:, :-2]
    down[1:-1] = points[2:] - points[:-2]
    normals = np.cross(down, across)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-30)

    smooth = np.zeros(scene.valid.shape, bool)
    smooth[1:-1, 1:-1] = True
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        # A neighbour on the same smooth piece lies near the tangent plane and has nearly the same normal.
        beside = np.roll(points, step, axis) - points
        off_plane = np.abs((beside * scene.normals).sum(-1)) / np.maximum(
            np.linalg.norm(beside, axis=-1), 1e-30
        )
        alike = (np.roll(scene.normals, step, axis) * scene.normals).sum(-1) > np.cos(np.radians(8))
        smooth &= np.roll(scene.valid, step, axis) & alike & (off_plane < 0.1)
    return normals, smooth & scene.valid


@pytest.mark.parametrize("kind", ["objects", "rooms"])
def test_normals_are_those_of_the_depth(kind):
    errors = []
    for scene in scenes(kind):
        found, smooth = normals_of_depth(scene)
        assert smooth.sum() > 0.6 * scene.valid.sum()
        cosine = (found * scene.normals).sum(-1)[smooth]
        errors.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    errors = np.concatenate(errors)
    assert errors.mean() < 0.1
    assert np.percentile(errors, 99.9) < 2
    assert errors.max() < 10


@pytest.mark.parametrize("kind", KINDS)
def test_truth_is_unit_faces_the_camera_and_is_zero_elsewhere(kind):
    for scene in scenes(kind):
        assert scene.image.shape == scene.normals.shape == (HEIGHT, WIDTH, 3)
        assert (scene.image.dtype, scene.normals.dtype) == (np.uint8, np.float32)
        assert (scene.depth.dtype, scene.valid.dtype) == (np.float32, bool)
        assert np.abs(np.linalg.norm(scene.normals[scene.valid], axis=-1) - 1).max() < 1e-5
        for stored in (scene.normals, scene.normals.astype(np.float16).astype(np.float32)):
            assert ((stored * rays(scene)).sum(-1)[scene.valid] < 0).all()
        assert (scene.depth[scene.valid] > 0.1).all()
        assert not scene.normals[~scene.valid].any()
        assert not scene.depth[~scene.valid].any()


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_differ_and_stay_in_range(kind):
    fields_of_view = []
    for scene in scenes(kind):
        fx, fy, cx, cy = scene.intrinsics
        assert fx == fy
        assert (cx, cy) == ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
        fields_of_view.append(np.degrees(2 * np.arctan(WIDTH / 2 / fx)))
    assert min(fields_of_view) >= 35
    assert max(fields_of_view) <= 75
    assert np.ptp(fields_of_view) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_well_exposed_and_not_flat(kind):
    for scene in scenes(kind):
        grey = scene.image[scene.valid].mean(-1)
        assert 40 < grey.mean() < 225
        assert (grey > 254).mean() < 0.2
        assert grey.std() > 4


def test_rooms_are_closed_and_objects_are_large():
    assert all(scene.valid.mean() > 0.995 for scene in scenes("rooms"))
    assert np.mean([scene.valid.mean() for scene in scenes("objects")]) > 0.4


def test_mixed_has_both_kinds():
    closed = [scene.valid.mean() > 0.995 for scene in scenes("mixed")]
    assert 0 < sum(closed) < len(closed)


def test_a_seed_is_a_picture():
    first, again, other = (render(seed, 48, 32, "rooms") for seed in (5, 5, 6))
    for name in ("image", "normals", "depth", "valid"):
        assert (getattr(first, name) == getattr(again, name)).all()
    assert (first.image != other.image).mean() > 0.5
    assert (first.normals != other.normals).mean() > 0.5


def test_the_look_changes_the_picture_not_the_truth():
    """With one light, no texture, no noise there is less to tell apart; the geometry must not care."""
    busy = render(3, 64, 48, "objects", Look(texture_contrast=(0.6, 0.6), lights=(2, 2)))
    plain = render(3, 64, 48, "objects", Look(texture_contrast=(0.0, 0.0), lights=(2, 2), sensor_noise=0.0))
    assert (busy.normals == plain.normals).all()
    assert (busy.image != plain.image).mean() > 0.5


def test_the_look_chooses_the_solids_and_stands_them_upright():
    look, tables = Look(solids=("cylinder", "torus"), upright=1.0), 0
    for seed in range(20):
        surfaces = compose_objects(np.random.default_rng(seed), 64, 48, look).surfaces
        solids = [surface for surface in surfaces if not isinstance(surface.shape, Plane)]
        assert solids
        assert all(isinstance(solid.shape, Cylinder | Torus) for solid in solids)
        if len(solids) < len(surfaces):
            tables += 1
            assert all(solid.rotation[2, 2] == 1 for solid in solids)
    assert tables > 5


@pytest.mark.parametrize(
    ("width", "height", "kind", "complaint"),
    [
        (64, 48, "landscapes", "kind 'landscapes' is not one of objects, rooms, mixed"),
        (15, 48, "rooms", "15 x 48 pixels is too small"),
        (64, 0, "rooms", "64 x 0 pixels is too small"),
    ],
)
def test_bad_arguments_are_refused(width, height, kind, complaint):
    with pytest.raises(ValueError, match=complaint):
        render(0, width, height, kind)


def test_the_smallest_and_a_lopsided_picture():
    assert render(1, 16, 16, "rooms").image.shape == (16, 16, 3)
    assert render(1, 200, 17, "objects").normals.shape == (17, 200, 3)
