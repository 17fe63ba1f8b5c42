"""Normals from depth, against surfaces whose normals are known exactly."""

import numpy as np
import pytest

from surface_normals.training.cameras import Intrinsics, rays
from surface_normals.training.depth_normals import normals_from_depth, z_from_ray_length
from surface_normals.training.evaluation import angular_error_degrees

CAMERA = Intrinsics(150.0, 140.0, 83.0, 58.5)
HEIGHT, WIDTH = 120, 160
RAYS = rays(CAMERA, HEIGHT, WIDTH).astype(np.float64)


def plane(normal, distance):
    """Exact depth; 0 beyond the horizon and far away."""
    inverse = RAYS @ np.asarray(normal) / -distance
    return np.where(inverse > 0.01, 1 / np.maximum(inverse, 0.01), 0).astype(np.float32)


@pytest.mark.parametrize("normal", [(0, 0, -1), (0, -1, 0), (1, 0, 0), (0.6, 0, -0.8), (0.36, -0.48, -0.8)])
@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("window", [3, 5, 9])
def test_a_plane_has_its_normal_at_every_pixel(normal, unit, window):
    depth = plane(normal, 1.5) * unit
    normals, valid = normals_from_depth(depth, CAMERA, window=window)
    assert angular_error_degrees(normals, np.float64(normal))[valid].max() < 0.02
    # Near the horizon of a floor depth rises so fast that neighbours count as other surfaces.
    assert valid[depth > 0].mean() > (0.99 if normal[2] else 0.6)
    assert not normals[~valid].any()


def test_a_sphere_has_its_normals_and_its_edge_none_of_the_wall_behind():
    centre, radius = np.array([0.1, -0.05, 3.0]), 1.0
    along = RAYS @ centre / (RAYS**2).sum(axis=2)
    inside = along**2 - (centre @ centre - radius**2) / (RAYS**2).sum(axis=2)
    hit = inside > 0
    z = np.where(hit, along - np.sqrt(np.where(hit, inside, 0)), 5.0)
    truth = np.where(hit[:, :, None], (RAYS * z[:, :, None] - centre) / radius, (0, 0, -1))
    normals, valid = normals_from_depth(z.astype(np.float32), CAMERA)
    error = np.where(valid, angular_error_degrees(normals, truth), 0)
    steepness = -(truth * RAYS).sum(axis=2) / np.linalg.norm(RAYS, axis=2)
    assert valid[hit & (steepness > 0.5)].all()
    assert error[hit & (steepness > 0.5)].max() < 0.35
    assert error[~hit].max() < 0.01  # next to the sphere, too
    assert hit.sum() > 2000


def test_noise_of_a_sensor_is_averaged():
    noise = 1 + np.random.default_rng(0).normal(0, 0.001, (HEIGHT, WIDTH))
    errors = []
    for window in (3, 5, 9):
        normals, valid = normals_from_depth(plane((0, 0, -1), 2) * np.float32(noise), CAMERA, window=window)
        errors.append(angular_error_degrees(normals, np.float64((0, 0, -1)))[valid].mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_pixels_with_too_little_around_them_have_no_normal():
    depth = np.zeros((20, 20), np.float32)
    depth[3] = 2  # neighbours on one line
    depth[12, 5:8] = depth[13, 5] = 2  # three neighbours
    depth[16:18, 14:17] = 2  # five
    _, valid = normals_from_depth(depth, CAMERA)
    assert valid.sum() == 6
    assert valid[16:18, 14:17].all()


def test_the_length_of_a_ray_is_more_than_its_depth():
    z = plane((0.6, 0, -0.8), 1.5)
    assert z_from_ray_length(z * np.linalg.norm(RAYS, axis=2), CAMERA) == pytest.approx(z, rel=1e-6)
