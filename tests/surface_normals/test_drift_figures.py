"""The figures by which drift is watched: which of them rise when pictures change, and that the same ones do not."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from serving.drift import MIN_COUNT, DriftWatch
from surface_normals.drift_figures import FIGURES, describe
from surface_normals.training.reference import reference_of
from surface_normals.training.synthetic import picture_seed, render

PICTURES = 2 * MIN_COUNT
ALIKE, UNLIKE = 0.25, 0.5
"""Below the first nothing is said; the figure that a change is about must rise above the second."""


@pytest.fixture(scope="module")
def scenes():
    """Pictures with their true normals, which stand for a model's."""
    rendered = [render(picture_seed(1, index), 64, 48) for index in range(PICTURES)]
    return [(scene.image, scene.normals.astype(np.float32), np.full((48, 64), 9.0)) for scene in rendered]


def unchanged(picture, normals, errors):
    return picture, normals, errors


def at_night(picture, normals, errors):
    return (picture * 0.25).astype(np.uint8), normals, errors


def blurred(picture, normals, errors):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2))), normals, errors


def upside_down(picture, normals, errors):
    return picture[::-1], normals[::-1] * [1, -1, 1], errors


def enlarged(picture, normals, errors):
    twice = [np.repeat(np.repeat(array, 2, axis=0), 2, axis=1) for array in (picture, normals, errors)]
    return tuple(twice)


def unsure(picture, normals, errors):
    return picture, normals, 3 * errors


@pytest.mark.parametrize(
    ("change", "raised"),
    [
        (unchanged, set()),
        (at_night, {"brightness", "contrast"}),
        (blurred, {"sharpness"}),
        (upside_down, {"normal_down"}),
        (enlarged, {"long_side_pixels", "sharpness"}),
        (unsure, {"expected_error_degrees"}),
    ],
)
def test_the_right_figure_rises(scenes, change, raised):
    reference = reference_of([describe(*scene) for scene in scenes[::2]])
    assert tuple(reference) == FIGURES
    clock = iter(range(PICTURES + 9))
    watch = DriftWatch(reference, lambda value, output: describe(*change(*value)), lambda: next(clock))
    for scene in scenes[1::2]:
        watch.look(scene, None)
    psi = {name: distance.psi for name, distance in watch.distances().items()}
    assert {name for name, value in psi.items() if value > UNLIKE} >= raised
    if change is unchanged:
        assert max(psi.values()) < ALIKE, psi
    for name in {"brightness", "sharpness", "normal_down", "expected_error_degrees"} - raised:
        assert psi[name] < ALIKE, (name, psi)


def test_the_figures_of_a_picture_made_by_hand():
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, 16:] = (255, 0, 0)
    normals = np.broadcast_to(np.float32([0, 0, -1]), (16, 32, 3))
    figures = describe(picture, normals, np.full((16, 32), 7.0, np.float32))
    assert figures == pytest.approx(
        {
            "brightness": 0.299 / 2,
            "contrast": 0.299 / 2,
            "saturation": 0.5,
            "sharpness": 0.0,  # green is 0 all over
            "long_side_pixels": 32,
            "normal_right": 0,
            "normal_down": 0,
            "normal_towards_camera": 1,
            "expected_error_degrees": 7,
        },
        abs=1e-6,
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (300, 1), (1, 9)])
def test_the_narrowest_pictures_have_figures(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    figures = describe(noise, np.ones((*shape, 3), np.float32), np.ones(shape, np.float32))
    assert figures.keys() == set(FIGURES)
    assert np.isfinite(list(figures.values())).all()
    assert (figures["sharpness"] > 0) == (shape[1] > 8)


def test_a_value_that_many_share_has_a_bin_for_itself():
    histogram = reference_of([{"size": value} for value in [640] * 90 + [320] * 10])["size"]
    assert sum(histogram["counts"]) == 100
    assert max(histogram["counts"]) == 90
    assert reference_of([]) == {}
