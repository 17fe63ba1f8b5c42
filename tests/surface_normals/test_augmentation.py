"""What augmentation does to a sample whose truth is known at every place and after every change."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from surface_normals.training import Config, photometry
from surface_normals.training.augmentation import (
    FULL_FROM,
    HIDDEN_CAMERAS_SHARE,
    augment,
    crop,
    mirror,
    resize,
    roll,
    strength,
    zoom,
)
from surface_normals.training.batches import training_batches
from surface_normals.training.cameras import Intrinsics, rays
from surface_normals.training.dataset import PictureDataset, Sample, StoredSample
from surface_normals.training.evaluation import angular_error_degrees
from surface_normals.training.truth import unit_normals_of

HEIGHT, WIDTH = 96, 128
CAMERA = Intrinsics(100.0, 80.0, 70.0, 40.0)
DEGREES_A_PIXEL = np.degrees(1 / 80)


def normals_seen_with(camera, height, width):
    """A sphere around the camera: each normal is its own ray, turned back, so the camera says it all."""
    back = -rays(camera, height, width)
    return back / np.linalg.norm(back, axis=2, keepdims=True)


@pytest.fixture
def sample():
    """Its picture tells each pixel's place: red from left to right, green from top to bottom."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :, 0] = np.arange(WIDTH) * 2
    picture[:, :, 1] = np.arange(HEIGHT)[:, None] * 2
    valid = np.ones((HEIGHT, WIDTH), np.bool_)
    vectors = normals_seen_with(CAMERA, HEIGHT, WIDTH)
    return StoredSample("a", picture, vectors, valid, np.eye(3, dtype=np.float32), CAMERA)


def seen(stored):
    """The sample as a training step sees it."""
    normals, valid = unit_normals_of(stored.vectors, stored.valid, stored.turn)
    return Sample(stored.name, stored.picture, normals, valid, stored.intrinsics)


CHANGES = {
    "nothing": lambda sample, random: sample,
    "mirror": lambda sample, random: mirror(sample),
    "crop": lambda sample, random: crop(sample, random, 33, 50),
    "enlarge": lambda sample, random: resize(sample, 200, 300),
    "shrink": lambda sample, random: resize(sample, 60, 70),
    "zoom": lambda sample, random: zoom(sample, random, 64, 96),
    "roll": lambda sample, random: roll(sample, 25),
    "roll back": lambda sample, random: roll(sample, -160),
    "all": lambda sample, random: mirror(zoom(roll(sample, 15), random, 64, 32)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_picture_normals_and_camera_change_together(sample, name):
    for seed in range(5):
        changed = seen(CHANGES[name](sample, np.random.default_rng(seed)))
        height, width = changed.valid.shape
        assert changed.picture.shape == changed.normals.shape == (height, width, 3)
        assert changed.valid.mean() > 0.3
        truth = normals_seen_with(changed.intrinsics, height, width)
        error = angular_error_degrees(changed.normals, truth)[changed.valid]
        # The nearest of the old pixels is up to half a diagonal away, twice that after two changes.
        assert error.max() < DEGREES_A_PIXEL * (1.5 if name == "all" else 0.8)
        assert not changed.normals[~changed.valid].any()


@pytest.mark.parametrize("name", ["nothing", "crop", "enlarge", "shrink", "zoom"])
def test_a_pixel_shows_the_place_that_its_normal_is_of(sample, name):
    changed = seen(CHANGES[name](sample, np.random.default_rng(0)))
    x, y, z = np.moveaxis(changed.normals, 2, 0)
    u, v = x / z * CAMERA.fx + CAMERA.cx - 0.5, y / z * CAMERA.fy + CAMERA.cy - 0.5
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(u * 2 - changed.picture[:, :, 0])[inside].max() <= 3
    assert np.abs(v * 2 - changed.picture[:, :, 1])[inside].max() <= 3


def test_mirroring_negates_x_only_and_twice_is_nothing(sample):
    once, twice, sample = seen(mirror(sample)), seen(mirror(mirror(sample))), seen(sample)
    assert np.array_equal(once.normals[:, ::-1], sample.normals * (-1, 1, 1))
    assert np.array_equal(once.picture[:, ::-1], sample.picture)
    assert once.intrinsics == (100, 80, WIDTH - 70, 40)
    for name in ("picture", "normals", "valid", "intrinsics"):
        assert np.array_equal(getattr(twice, name), getattr(sample, name))


def test_a_crop_takes_one_window_of_everything(sample):
    window, sample = seen(crop(sample, np.random.default_rng(5), 8, 140)), seen(sample)
    top = int(window.picture[0, 0, 1]) // 2
    assert np.array_equal(window.picture[:, :WIDTH], sample.picture[top : top + 8])
    assert np.array_equal(window.normals[:, :WIDTH], sample.normals[top : top + 8])
    assert window.valid[:, :WIDTH].all()
    assert not window.valid[:, WIDTH:].any()
    assert window.intrinsics == (100, 80, 70, 40 - top)


def test_pixels_without_truth_stay_without_it(sample):
    valid = sample.valid.copy()
    valid[20:60, 40:100] = False
    holed = replace(sample, valid=valid)
    for change in CHANGES.values():
        changed = seen(change(holed, np.random.default_rng(0)))
        lengths = np.linalg.norm(changed.normals, axis=2)
        assert lengths[changed.valid] == pytest.approx(1, abs=1e-5)
        assert not lengths[~changed.valid].any()
        assert 0 < changed.valid.mean() < 1


def test_a_turn_of_a_quarter_is_exact(sample):
    square = Intrinsics(80.0, 80.0, 64.0, 48.0)
    turned, sample = seen(roll(replace(sample, intrinsics=square), 90)), seen(sample)
    middle = slice(16, 112)
    expected = np.rot90(sample.picture[:, middle], -1)  # clockwise
    assert np.abs(turned.picture[:, middle].astype(int) - expected).max() <= 1
    x, y, z = np.moveaxis(np.rot90(sample.normals[:, middle], -1), 2, 0)
    assert turned.normals[:, middle] == pytest.approx(np.stack([-y, x, z], axis=2), abs=1e-6)
    assert not turned.valid[:, :16].any()


def levels_of(sample, level, seed, roll_degrees=0.0, size=(64, 96)):
    height, width = size
    random = np.random.default_rng(seed)
    stored = augment(sample, random, height=height, width=width, level=level, roll_degrees=roll_degrees)
    return seen(stored)


@pytest.mark.parametrize("level", ["none", "light", "full"])
def test_a_seed_says_it_all(sample, level):
    for seed in range(20):
        first, again = levels_of(sample, level, seed, 10.0), levels_of(sample, level, seed, 10.0)
        assert first.picture.shape == (64, 96, 3)
        assert first.picture.dtype == np.uint8
        for name in ("picture", "normals", "valid", "intrinsics"):
            assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(levels_of(sample, level, 1).picture, levels_of(sample, level, 2).picture)


def test_none_changes_no_pixel(sample):
    for seed in range(10):
        window = levels_of(sample, "none", seed)
        left, top = window.picture[0, 0, 0] // 2, window.picture[0, 0, 1] // 2
        assert np.array_equal(window.picture, sample.picture[top : top + 64, left : left + 96])


def test_light_is_what_it_always_was(sample):
    """The demo's numbers and resumed jobs hang on each bit of it."""
    digest = hashlib.sha256()
    for seed in range(20):
        random = np.random.default_rng(seed)
        changed = augment(sample, random, height=64, width=96, level="light", roll_degrees=0.0)
        for array in (changed.picture, changed.vectors, changed.valid, changed.turn):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == "561b1614b12b818349bd709f8db568cb4edbdfd1ce800c29dcafb31ea252bba8"


def test_a_turn_stays_within_its_limit(sample):
    unturned = replace(sample, vectors=np.zeros_like(sample.vectors) + np.float32((0.6, 0, -0.8)))
    angles = []
    for seed in range(30):
        turned = levels_of(unturned, "none", seed, 20.0, (HEIGHT, WIDTH))
        x, y, _ = turned.normals[40, 70]
        angles.append(np.degrees(np.arctan2(y, x)))
    assert -20 <= min(angles) < -10
    assert 10 < max(angles) <= 20


def test_full_takes_windows_from_half_to_all_of_the_picture(sample):
    focals = [levels_of(sample, "full", seed, size=(48, 64)).intrinsics.fx for seed in range(200)]
    # fx is 50 when the whole picture is brought to 64 pixels, 100 when half of it is.
    assert min(focals) == pytest.approx(50, rel=0.02)
    assert max(focals) == pytest.approx(100, rel=0.02)
    small = levels_of(sample, "full", 0, size=(200, 300))
    assert small.valid.all()  # a small picture is enlarged, not surrounded by black


CAMERA_CHANGES = [f"{name}_SHARE" for name in ("COLOURS", "GREY", "SMALL", "MOTION", "BLUR", "NOISE", "JPEG")]


def test_changes_of_the_camera_are_as_frequent_as_they_say():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    random = np.random.default_rng(1)
    unchanged = sum(np.array_equal(photometry.change_camera(picture, random), picture) for _ in range(1000))
    grey = sum(
        np.ptp(photometry.change_camera(picture, random).astype(int), axis=2).max() == 0 for _ in range(1000)
    )
    expected = np.prod([1 - getattr(photometry, name) for name in CAMERA_CHANGES])
    assert unchanged / 1000 == pytest.approx(expected, abs=0.05)
    # Noise and the rest may follow on grey.
    assert 0.5 < grey / 1000 / photometry.GREY_SHARE < 1.1


class Only:
    """Random numbers that choose one of change_camera's changes alone, and what they say of it."""

    def __init__(self, place, *numbers):
        self.place, self.numbers = place, list(numbers)

    def random(self):
        self.place -= 1
        return 0.0 if self.place == -1 else 1.0

    def uniform(self, low, high):
        number = self.numbers.pop(0)
        assert low <= number <= high
        return number


SMALL, MOTION = 2, 3  # colours and grey come first


def test_a_camera_that_moves_draws_a_point_out_into_a_line():
    picture = np.zeros((21, 21, 3), np.uint8)
    picture[10, 10] = 220
    level = photometry.change_camera(picture, Only(MOTION, 11, 0)).astype(int)
    assert level[10, 5:16].tolist() == [[20] * 3] * 11  # symmetric: the truth stays where it is
    assert level.sum() == picture.sum()
    upright = photometry.change_camera(picture, Only(MOTION, 11, np.pi / 2))
    assert np.array_equal(upright, level.transpose(1, 0, 2))
    even = np.full((8, 8, 3), 77, np.uint8)
    assert np.array_equal(photometry.change_camera(even, Only(MOTION, 11, 1)), even), "up to the border"


def test_a_picture_enlarged_from_a_small_one_keeps_its_parts_and_loses_what_is_fine():
    fine = np.indices((40, 40)).sum(axis=0) % 2 * 255
    picture = np.repeat(fine[:, :, None], 3, axis=2).astype(np.uint8)
    assert np.ptp(photometry.change_camera(picture, Only(SMALL, 0.5)).astype(int)) <= 1
    picture[:, 20:] = 0
    halves = photometry.change_camera(picture, Only(SMALL, 0.2)).astype(int)
    assert halves[:, :15].mean() == pytest.approx(127.5, abs=2)
    assert halves[:, 25:].max() == 0


@pytest.mark.parametrize(("pixels", "counts"), [(21, True), (20, False)])
def test_a_picture_with_hardly_any_truth_does_not_count(tmp_path, pixels, counts):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    normals = np.zeros((2000, 3), np.float32)
    normals[:pixels] = (0, 0, -1)
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "images/a.png")
    normals = np.concatenate([normals, np.zeros((48, 3), np.float32)]).reshape(32, 64, 3)
    np.save(tmp_path / "normals/a.npy", normals)
    (tmp_path / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    config = Config(size="tiny", crop_height=32, crop_width=64, batch_size=1, workers=0, augment="none")
    (batch,) = training_batches(config, PictureDataset("train", tmp_path), 0, 1)
    assert batch.valid.any() == counts


def test_changes_of_the_camera_keep_a_picture_recognisable(sample):
    random = np.random.default_rng(1)
    for _ in range(100):
        changed = photometry.change_camera(sample.picture, random).astype(int)
        assert changed[:, :, 0].std() > 10
        correlation = np.corrcoef(changed.sum(axis=2).ravel(), sample.picture.sum(axis=2).ravel())[0, 1]
        assert correlation > 0.8


def test_a_batch_carries_the_cameras_of_its_crops(tmp_path):
    for kind in ("images", "normals", "cameras"):
        (tmp_path / kind).mkdir()
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), index, np.uint8)).save(tmp_path / f"images/{index}.png")
        np.save(tmp_path / f"normals/{index}.npy", np.full((48, 64, 3), (0, 0, -1), np.float32))
    (tmp_path / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    config = Config(size="tiny", crop_height=32, crop_width=32, batch_size=3, workers=0, augment="none")
    (batch,) = training_batches(config, PictureDataset("train", tmp_path), 0, 1)
    assert batch.intrinsics.shape == (3, 4)
    assert batch.intrinsics.isnan().all()
    for index in range(3):
        camera = {"fx": 50 + index, "fy": 50, "cx": 100, "cy": 100}
        (tmp_path / f"cameras/{index}.json").write_text(json.dumps(camera))
    dataset = PictureDataset("train", tmp_path)
    (batch,) = training_batches(config, dataset, 0, 1)  # the network does not look at them
    assert batch.intrinsics[:, 0].tolist() == (50 + batch.picture[:, 0, 0, 0].float()).tolist()
    assert (batch.intrinsics[:, 2:] <= 100).all()
    assert (batch.intrinsics[:, 2:] >= 68 - 16).all()
    assert len(set(batch.intrinsics[:, 2].tolist())) > 1


def test_some_cameras_are_hidden_and_nothing_else_changes(tmp_path):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    noise = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(noise.integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / f"images/{index}.png")
        np.save(tmp_path / f"normals/{index}.npy", np.full((48, 64, 3), (0, 0, -1), np.float32))
    (tmp_path / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    (tmp_path / "cameras.json").write_text('{"fx": 50, "fy": 50, "cx": 32, "cy": 24}')
    dataset = PictureDataset("train", tmp_path)
    assume = Config(size="tiny", crop_height=32, crop_width=32, batch_size=40, workers=0, epochs=5)
    given = replace(assume, intrinsics="given")
    (plain, *_), *runs = (list(training_batches(config, dataset, 0, 5)) for config in (assume, given, given))
    assert not plain.intrinsics.isnan().any()
    for name, tensor, like in zip(plain._fields, runs[0][0], plain, strict=True):
        if name == "intrinsics":
            shown = ~tensor.isnan().any(dim=1)
            assert tensor[shown].equal(like[shown])
        else:
            assert tensor == like if name == "names" else tensor.equal(like)
    first, again = (torch.stack([batch.intrinsics for batch in run]) for run in runs)
    assert torch.equal(first.isnan(), again.isnan())
    hidden = first.isnan().all(dim=2)
    assert torch.equal(hidden, first.isnan().any(dim=2))
    assert hidden.float().mean().item() == pytest.approx(HIDDEN_CAMERAS_SHARE, abs=0.15)
    assert not torch.equal(hidden[0], hidden[1])


def test_strong_changes_are_for_long_runs():
    assert strength("auto", FULL_FROM - 1) == "light"
    assert strength("auto", FULL_FROM) == "full"
    assert [strength(level, 10**9) for level in ("none", "light")] == ["none", "light"]
    assert strength("full", 1) == "full"


def test_the_length_of_a_run_is_that_of_all_its_epochs(tmp_path):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(tmp_path / "images/a.png")
    np.save(tmp_path / "normals/a.npy", np.full((48, 64, 3), (0, 0, -1), np.float32))
    (tmp_path / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    dataset = PictureDataset("train", tmp_path)
    base = Config(size="tiny", crop_height=32, crop_width=32, workers=0)

    def picture(**changes):
        (batch,) = training_batches(replace(base, **changes), dataset, 0, 1)
        return batch.picture

    assert torch.equal(picture(epochs=20), picture(augment="light"))
    assert torch.equal(picture(epochs=FULL_FROM), picture(augment="full"))
    assert not torch.equal(picture(augment="full"), picture(augment="light"))


def test_full_gives_each_batch_other_proportions_of_the_same_area(tmp_path):
    for kind in ("images", "normals"):
        (tmp_path / kind).mkdir()
    for index in range(2):
        Image.fromarray(np.full((48, 64, 3), index, np.uint8)).save(tmp_path / f"images/{index}.png")
        np.save(tmp_path / f"normals/{index}.npy", np.full((48, 64, 3), (0, 0, -1), np.float32))
    (tmp_path / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    dataset = PictureDataset("train", tmp_path)

    def sizes_from(level, first_step):
        config = Config(
            size="tiny", crop_height=96, crop_width=128, batch_size=2, workers=0, augment=level, epochs=40
        )
        return [tuple(batch.valid.shape[1:]) for batch in training_batches(config, dataset, first_step, 40)]

    sizes = sizes_from("full", 0)
    assert set(sizes) == {(128, 96), (96, 128), (96, 160), (64, 192)}
    assert sizes_from("full", 25) == sizes[25:]
    assert set(sizes_from("light", 0)) == {(96, 128)}
