"""Truth from a depth map: at each pixel the normal of the plane that its neighbours lie in.

A plane n . P = d seen through a pinhole is, with P = z r for the pixel's ray r = (x, y, 1),

    1 / z = (n / d) . r

so inverse depth is linear in x and y, and the plane is a linear least-squares fit to it: exact for
planes, and right for the sensors that measure disparity, which is inverse depth.
"""

import numpy as np
from numpy.typing import NDArray

from surface_normals.training.cameras import Intrinsics, rays

WINDOW = 5
EDGE_SHARE = 0.05
"""A neighbour whose depth differs by more than this share belongs to another surface."""
MIN_NEIGHBOURS = 4
ROWS_AT_ONCE = 32  # so few that the sums stay in the processor's cache: twice as fast

Floats = NDArray[np.float32]


def normals_from_depth(
    depth: Floats, intrinsics: Intrinsics, *, window: int = WINDOW
) -> tuple[Floats, NDArray[np.bool_]]:
    """Normals (H, W, 3), `rdf`, unit, facing the camera, and where they are valid, (H, W).

    `depth` (H, W) is z in any unit, 0 where unknown. Not valid, and zero, are pixels without depth,
    those with fewer than MIN_NEIGHBOURS in the `window` on their own surface, and those whose
    neighbours lie on one line. A crease is rounded over the window.
    """
    height, width = depth.shape
    reach = window // 2
    padded = np.pad(depth.astype(np.float32, copy=False), reach)
    directions = rays(intrinsics, height, width)
    normals = np.zeros((height, width, 3), np.float32)
    valid = np.zeros((height, width), np.bool_)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = slice(top, min(top + ROWS_AT_ONCE, height))
        band = padded[rows.start : rows.stop + 2 * reach]
        normals[rows], valid[rows] = _fit(band, directions[rows], intrinsics, reach)
    return normals, valid


def z_from_ray_length(length: Floats, intrinsics: Intrinsics) -> Floats:
    """Depth along the camera's axis from the distance to the camera's centre, both (H, W)."""
    z: Floats = length / np.linalg.norm(rays(intrinsics, *length.shape), axis=2)
    return z


def _fit(
    band: Floats, directions: Floats, intrinsics: Intrinsics, reach: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Normals of the rows of `band` that have `reach` rows and columns around them."""
    height, width = directions.shape[:2]
    centre = band[reach : reach + height, reach : reach + width]
    count, sum_u, sum_v, sum_uu, sum_uv, sum_vv, sum_t, sum_tu, sum_tv = np.zeros(
        (9, height, width), np.float32
    )
    for v in range(-reach, reach + 1):
        for u in range(-reach, reach + 1):
            neighbour = band[reach + v : reach + v + height, reach + u : reach + u + width]
            near = (np.abs(neighbour - centre) <= EDGE_SHARE * centre) & (neighbour > 0)
            weight = near.astype(np.float32)
            # Relative to the pixel itself: small numbers, which float32 holds exactly enough.
            inverse = np.where(near, (centre - neighbour) / np.maximum(neighbour, 1e-20), 0)
            count += weight
            sum_t += inverse
            if u:
                sum_u += u * weight
                sum_uu += u * u * weight
                sum_tu += u * inverse
            if v:
                sum_v += v * weight
                sum_vv += v * v * weight
                sum_tv += v * inverse
            if u and v:
                sum_uv += u * v * weight
    # The normal equations of t = slope_u u + slope_v v + level, by Cramer's rule.
    a, b, c = sum_vv * count - sum_v**2, sum_v * sum_u - sum_uv * count, sum_uv * sum_v - sum_vv * sum_u
    determinant = sum_uu * a + sum_uv * b + sum_u * c
    # The sums of u and v are whole numbers, so a determinant that is not zero is at least 1.
    valid = (centre > 0) & (count > MIN_NEIGHBOURS) & (determinant > 0.5)
    slope_u = sum_tu * a + sum_tv * b + sum_t * c
    slope_v = sum_tu * b + sum_tv * (sum_uu * count - sum_u**2) + sum_t * (sum_u * sum_uv - sum_uu * sum_v)
    level = sum_tu * c + sum_tv * (sum_u * sum_uv - sum_uu * sum_v) + sum_t * (sum_uu * sum_vv - sum_uv**2)
    x, y = slope_u * intrinsics.fx, slope_v * intrinsics.fy
    z = determinant + level - x * directions[:, :, 0] - y * directions[:, :, 1]
    away = np.stack([x, y, z], axis=2)
    length = np.linalg.norm(away, axis=2, keepdims=True)
    return np.where(valid[:, :, None], -away / np.where(valid[:, :, None], length, 1), 0).astype(
        np.float32
    ), valid
