"""Distances to the edges of shapes, on pictures whose edges are where we drew them."""

import numpy as np

from surface_normals.training.edges import EdgeErrors, distance_bins, edge_pixels

WALL, FLOOR = np.array([0, 0, -1], np.float32), np.array([0, -1, 0], np.float32)


def room(height=40, width=10, meets_at=20):
    """A wall above a floor; the first row of the floor is `meets_at`."""
    truth = np.tile(WALL, (height, width, 1))
    truth[meets_at:] = FLOOR
    return truth, np.ones((height, width), bool)


def test_the_two_rows_where_wall_and_floor_meet_are_the_edge():
    edges = edge_pixels(*room())
    assert edges[19:21].all()
    assert edges.sum() == 20


def test_a_gentle_curve_is_no_edge_and_a_rim_of_truth_is():
    angle = np.radians(np.linspace(-80, 80, 60))
    cylinder = np.stack([np.sin(angle), 0 * angle, -np.cos(angle)], axis=1)[None].repeat(8, axis=0)
    valid = np.ones((8, 60), bool)
    assert not edge_pixels(cylinder, valid).any()
    valid[:, 30:] = False
    cylinder[:, 30:] = 0
    edges = edge_pixels(cylinder, valid)
    assert edges[:, 29].all()
    assert not edges[:, :29].any()


def test_a_step_between_two_walls_is_an_edge_where_depth_is_known():
    truth, valid = np.tile(WALL, (10, 12, 1)), np.ones((10, 12), bool)
    depth = np.full((10, 12), 2.0, np.float32)
    depth[:, 6:] = 2.2
    depth[0] = 0  # unknown
    assert not edge_pixels(truth, valid).any()
    edges = edge_pixels(truth, valid, depth)
    assert edges[1:, 5:7].all()
    assert edges.sum() == 9 * 2
    depth[:, 6:] = 2.08  # as the floor may fall off from one pixel to the next
    assert not edge_pixels(truth, valid, depth).any()


def test_bins_follow_the_distance_in_rows():
    bins = distance_bins(edge_pixels(*room()))
    # Rows 20, 21, ... are at distance 1, 2, ...; the bins end at 1, 2, 4, 8, 16 pixels.
    expected = [0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5]
    assert (bins[20:] == np.array(expected)[:, None]).all()
    assert (bins[:20] == np.array(expected[::-1])[:, None]).all()


def test_errors_are_averaged_by_distance():
    truth, valid = room()
    valid[:, 5:] = False  # only the left half is measured, and its rim is an edge
    collected = EdgeErrors()
    rows = np.broadcast_to(np.arange(40)[:, None], valid.shape)
    collected.add(truth, valid, np.where((rows >= 19) & (rows < 21), 60.0, 10.0)[valid])
    nearest, second, third, fourth = collected.bins()
    # At distance 1: the two rows, and column 4 of the 38 others.
    assert nearest.pixels == 2 * 5 + 38
    assert nearest.mean_error_degrees == (10 * 60 + 38 * 10) / 48
    assert {group.mean_error_degrees for group in (second, third, fourth)} == {10}
    assert (fourth.over_pixels, fourth.up_to_pixels) == (4, 8)  # column 0, five pixels from the rim


def test_a_picture_without_an_edge_says_nothing_of_distances():
    collected = EdgeErrors()
    collected.add(np.tile(WALL, (9, 9, 1)), np.ones((9, 9), bool), np.full(81, 5.0))
    assert collected.bins() == []
