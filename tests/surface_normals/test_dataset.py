import io
import json

import numpy as np
import pytest
from PIL import Image

from surface_normals import codecs
from surface_normals.training.augmentation import crop, mirror
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import angular_error_degrees, constant_predictions


def unit_normals(height=24, width=32, seed=1):
    vectors = np.random.default_rng(seed).normal(size=(height, width, 3))
    vectors[:, :, 2] = -np.abs(vectors[:, :, 2])
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


def write_sample(folder, name="a", *, coding="npy", normals=None, picture=None, suffix=".png"):
    normals = unit_normals() if normals is None else normals
    picture = np.full((*normals.shape[:2], 3), 90, np.uint8) if picture is None else picture
    for kind, ending in (("images", suffix), ("normals", ".npy" if coding == "npy" else ".png")):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        path = folder / kind / f"{name}{ending}"
        if kind == "images":
            Image.fromarray(picture).save(path)
        elif coding == "npy":
            np.save(path, normals.astype(np.float16))
        else:  # the writers make pictures with axes rub
            path.write_bytes(
                codecs.encode_png8(normals) if coding == "png8" else codecs.encode_png16(normals)
            )


def describe(folder, **changes):
    values = {"axes": "rdf", "coding": "npy", "invalid": "zero", **changes}
    (folder / "dataset.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("coding", "axes", "limit_degrees"), [("npy", "rdf", 0.06), ("png8", "rub", 0.5), ("png16", "rub", 0.01)]
)
def test_every_coding_gives_the_same_truth(tmp_path, coding, axes, limit_degrees):
    write_sample(tmp_path, coding=coding)
    describe(tmp_path, coding=coding, axes=axes)
    sample = PictureDataset("train", tmp_path)[0]
    assert sample.valid.all()
    assert np.allclose(np.linalg.norm(sample.normals, axis=2), 1, atol=1e-5)
    assert angular_error_degrees(sample.normals, unit_normals()).max() < limit_degrees


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp"])
def test_pictures_of_every_kind_are_found_in_folders_of_folders(tmp_path, suffix):
    write_sample(tmp_path, "room/day one/0001", suffix=suffix)
    describe(tmp_path)
    dataset = PictureDataset("train", tmp_path)
    assert dataset.names == ["room/day one/0001"]
    assert dataset[0].picture.shape == (24, 32, 3)


def test_what_s3_prefixes_also_hold_is_passed_over(tmp_path):
    write_sample(tmp_path)
    describe(tmp_path)
    (tmp_path / "images" / "empty.png").touch()
    (tmp_path / "images" / "_SUCCESS").write_text("x")
    (tmp_path / "images" / ".hidden.png").write_text("x")
    (tmp_path / "images" / ".cache").mkdir()
    (tmp_path / "images" / ".cache" / "b.png").write_text("x")
    assert PictureDataset("train", tmp_path).names == ["a"]


def test_zero_and_nan_are_no_truth(tmp_path):
    normals = unit_normals()
    normals[0], normals[1] = 0, np.nan
    write_sample(tmp_path, normals=normals)
    describe(tmp_path)
    sample = PictureDataset("train", tmp_path)[0]
    assert not sample.valid[:2].any()
    assert sample.valid[2:].all()
    assert (sample.normals[:2] == 0).all()


def test_masks_are_applied(tmp_path):
    write_sample(tmp_path)
    describe(tmp_path, invalid="mask")
    (tmp_path / "masks").mkdir()
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    assert np.array_equal(PictureDataset("train", tmp_path)[0].valid, mask > 0)


def no_description(folder):
    (folder / "dataset.json").unlink()


def bad_description(folder):
    (folder / "dataset.json").write_text("{")


def unknown_axes(folder):
    describe(folder, axes="xyz")


def no_normals(folder):
    (folder / "normals" / "a.npy").unlink()


def no_pictures(folder):
    (folder / "images" / "a.png").unlink()


def no_masks(folder):
    describe(folder, invalid="mask")


def same_name_twice(folder):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "images" / "a.jpg")


def other_size(folder):
    np.save(folder / "normals" / "a.npy", unit_normals(12, 16).astype(np.float16))


def corrupt_picture(folder):
    path = folder / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:50])


def wrong_bits(folder):
    (folder / "normals" / "a.png").write_bytes(codecs.encode_png8(unit_normals()))
    (folder / "normals" / "a.npy").unlink()
    describe(folder, coding="png16")


def pickled_normals(folder):
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    (folder / "normals" / "a.npy").write_bytes(file.getvalue())


def integers(folder):
    np.save(folder / "normals" / "a.npy", np.zeros((24, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (no_description, r"dataset\.json"),
        (bad_description, r"dataset\.json"),
        (unknown_axes, "xyz.*rdf, rub, lub, rdb"),
        (no_normals, r"images/a\.png.*normals/"),
        (no_pictures, "no pictures"),
        (no_masks, r"images/a\.png.*masks/"),
        (same_name_twice, "same name"),
        (other_size, r"a\.png is 32x24 .*a\.npy is 16x12"),
        (corrupt_picture, r"images/a\.png"),
        (wrong_bits, "8 bits"),
        (pickled_normals, r"normals/a\.npy"),
        (integers, "float16"),
    ],
)
def test_unusable_data_are_one_line_that_names_channel_and_file(tmp_path, damage, names):
    write_sample(tmp_path)
    describe(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=names) as caught:
        PictureDataset("train", tmp_path)[0]
    assert "channel 'train'" in str(caught.value)
    assert "\n" not in str(caught.value)


def sample_of(tmp_path):
    picture = np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    write_sample(tmp_path, picture=picture)
    describe(tmp_path)
    return PictureDataset("train", tmp_path)[0]


def test_mirroring_negates_x_only_and_twice_is_nothing(tmp_path):
    sample = sample_of(tmp_path)
    once, twice = mirror(sample), mirror(mirror(sample))
    assert np.array_equal(once.normals[:, ::-1], sample.normals * (-1, 1, 1))
    assert np.array_equal(once.picture[:, ::-1], sample.picture)
    for name in ("picture", "normals", "valid"):
        assert np.array_equal(getattr(twice, name), getattr(sample, name))


def test_a_crop_takes_one_window_of_everything(tmp_path):
    sample = sample_of(tmp_path)
    window = crop(sample, np.random.default_rng(5), 8, 40)
    assert window.picture.shape == (8, 40, 3)
    places = [
        top for top in range(17) if np.array_equal(sample.picture[top : top + 8], window.picture[:, :32])
    ]
    assert len(places) == 1
    assert np.array_equal(sample.normals[places[0] : places[0] + 8], window.normals[:, :32])
    assert window.valid[:, :32].all()
    assert not window.valid[:, 32:].any()


def test_constants_are_means_over_valid_pixels(tmp_path):
    left, right = np.zeros((24, 32, 3), np.float32), np.zeros((24, 32, 3), np.float32)
    left[:, :16], left[:, 16:] = (0, 0, -1), (0, -1, 0)
    right[:, :16] = (0, 0, -1)  # its right half has no truth
    write_sample(tmp_path, "a", normals=left)
    write_sample(tmp_path, "b", normals=right)
    describe(tmp_path)
    constants = constant_predictions(PictureDataset("train", tmp_path))
    assert angular_error_degrees(constants["mean normal"], np.array([0, -1, -2]))[()] == pytest.approx(
        0, abs=1e-3
    )
    place = constants["mean normal of each place"]
    assert angular_error_degrees(place, left).max() == pytest.approx(0, abs=1e-3)
