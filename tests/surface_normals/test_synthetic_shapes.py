"""Rays and normals of the generator's solids, against distance functions written here and by dense search."""

import numpy as np
import pytest

from surface_normals.training.synthetic.shapes import Box, Cone, Cylinder, Plane, Sphere, Torus

SOLIDS = [
    Sphere(0.8),
    Box((0.4, 0.7, 0.2)),
    Cylinder(0.5, 0.8),
    Cylinder(0.9, 0.1),
    Cone(0.7, 0.6),
    Cone(0.2, 0.9),
    Torus(0.7, 0.25),
    Torus(0.6, 0.5),
    Torus(0.9, 0.03),
]


def signed_distance(shape, points):
    """Distance (N,) of points (3, N) from a solid's surface, negative inside."""
    x, y, z = points
    across = np.hypot(x, y)
    match shape:
        case Sphere(radius):
            return np.linalg.norm(points, axis=0) - radius
        case Box(half_sizes):
            beyond = np.abs(points) - np.array(half_sizes)[:, None]
        case Cylinder(radius, half_height):
            beyond = np.stack([across - radius, np.abs(z) - half_height])
        case Cone(radius, half_height):
            steepness = np.hypot(radius, 2 * half_height)
            side = (2 * half_height * across - radius * (half_height - z)) / steepness
            return np.maximum(side, -half_height - z)  # exact near the faces, which is where it is used
        case Torus(major, minor):
            return np.hypot(across - major, z) - minor
    return np.linalg.norm(np.maximum(beyond, 0), axis=0) + np.minimum(beyond.max(axis=0), 0)


def random_rays(shape, count, seed=0):
    """Rays from a ball twice the solid's, aimed at points in and just around the solid."""
    generator = np.random.default_rng(seed)
    origins = generator.standard_normal((3, count))
    origins *= 2 * shape.bounding_radius / np.linalg.norm(origins, axis=0)
    targets = shape.bounding_radius * generator.uniform(-0.9, 0.9, (3, count))
    directions = targets - origins
    return origins, directions / np.linalg.norm(directions, axis=0)


@pytest.mark.parametrize("shape", SOLIDS, ids=str)
def test_a_ray_ends_where_it_first_enters_the_solid(shape):
    origins, directions = random_rays(shape, 4000)
    distances = shape.intersect(origins, directions)
    hit = np.isfinite(distances)
    assert 200 < hit.sum() < 4000  # both cases are there

    points = origins[:, hit] + distances[hit] * directions[:, hit]
    assert np.abs(signed_distance(shape, points)).max() < 1e-9
    reach = np.where(hit, distances - 1e-6, 4 * shape.bounding_radius)
    for share in np.linspace(0, 1, 500):
        on_the_way = origins + share * reach * directions
        assert signed_distance(shape, on_the_way).min() > -1e-9


@pytest.mark.parametrize("shape", SOLIDS, ids=str)
def test_a_ray_from_inside_ends_where_it_leaves(shape):
    centre = np.array([[shape.major], [0.0], [0.0]]) if isinstance(shape, Torus) else np.zeros((3, 1))
    directions = np.random.default_rng(1).standard_normal((3, 500))
    directions /= np.linalg.norm(directions, axis=0)
    origins = np.repeat(centre, 500, axis=1)
    distances = shape.intersect(origins, directions)
    assert np.abs(signed_distance(shape, origins + distances * directions)).max() < 1e-9
    for share in np.linspace(0, 1, 200):
        assert signed_distance(shape, origins + share * distances * directions).max() < 1e-9


@pytest.mark.parametrize("shape", SOLIDS, ids=str)
def test_nothing_behind_a_ray_is_met(shape):
    origins, directions = random_rays(shape, 500)
    assert np.isinf(shape.intersect(origins, -directions)).all()


@pytest.mark.parametrize("shape", SOLIDS, ids=str)
def test_normals_are_the_gradient_of_the_distance(shape):
    origins, directions = random_rays(shape, 4000)
    distances = shape.intersect(origins, directions)
    hit = np.isfinite(distances)
    points = origins[:, hit] + distances[hit] * directions[:, hit]
    step = 1e-6
    gradient = np.stack(
        [
            signed_distance(shape, points + step * axis[:, None])
            - signed_distance(shape, points - step * axis[:, None])
            for axis in np.eye(3)
        ]
    ) / (2 * step)
    smooth = np.abs(np.linalg.norm(gradient, axis=0) - 1) < 1e-4  # not across an edge
    assert smooth.mean() > 0.99
    normals = shape.normals(points)
    assert np.abs(np.linalg.norm(normals, axis=0) - 1).max() < 1e-12
    assert np.abs(normals - gradient)[:, smooth].max() < 1e-4
    assert (normals * directions[:, hit]).sum(axis=0).max() < 1e-9  # seen from outside


@pytest.mark.parametrize("shape", SOLIDS, ids=str)
def test_extent_is_the_farthest_point_along_a_direction(shape):
    origins, directions = random_rays(shape, 60_000)
    distances = shape.intersect(origins, directions)
    hit = np.isfinite(distances)
    points = origins[:, hit] + distances[hit] * directions[:, hit]
    for direction in np.vstack([np.eye(3), -np.eye(3), [[0.6, 0.0, 0.8], [0.48, 0.64, -0.6]]]):
        farthest = (direction @ points).max()
        assert farthest <= shape.extent(direction) + 1e-9
        assert farthest > shape.extent(direction) - 0.06 * shape.bounding_radius
    assert np.linalg.norm(points, axis=0).max() <= shape.bounding_radius + 1e-9


def test_a_ray_along_the_axis_passes_through_the_hole_of_a_torus():
    origins = np.array([[0.0, 0.7], [0.0, 0.0], [-5.0, -5.0]])
    directions = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert Torus(0.7, 0.25).intersect(origins, directions) == pytest.approx([np.inf, 4.75])


def test_a_plane_ends_at_its_radius():
    origins = np.array([[0.0, 1.9, 2.1], [0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    down = np.array([[0.0] * 3, [0.0] * 3, [-1.0] * 3])
    assert Plane(radius=2.0).intersect(origins, down) == pytest.approx([3, 3, np.inf])
    assert Plane().intersect(origins, down) == pytest.approx([3, 3, 3])
    assert (Plane().normals(origins) == [[0.0], [0.0], [1.0]]).all()
