import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from surface_normals import codecs
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import angular_error_degrees, constant_predictions


def unit_normals(height=24, width=32, seed=1):
    vectors = np.random.default_rng(seed).normal(size=(height, width, 3))
    vectors[:, :, 2] = -np.abs(vectors[:, :, 2])
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


ENDINGS = {"npy": ".npy", "npz": ".npz", "png8": ".png", "png16": ".png"}


def write_sample(folder, name="a", *, coding="npy", normals=None, picture=None, suffix=".png"):
    normals = unit_normals() if normals is None else normals
    picture = np.full((*normals.shape[:2], 3), 90, np.uint8) if picture is None else picture
    for kind, ending in (("images", suffix), ("normals", ENDINGS[coding])):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        path = folder / kind / f"{name}{ending}"
        if kind == "images":
            Image.fromarray(picture).save(path)
        elif coding == "npy":
            np.save(path, normals.astype(np.float16))
        elif coding == "npz":
            np.savez_compressed(path, normals=normals, other=np.zeros(3))
        else:  # the writers make pictures with axes rub
            path.write_bytes(
                codecs.encode_png8(normals) if coding == "png8" else codecs.encode_png16(normals)
            )


def describe(folder, **changes):
    values = {"axes": "rdf", "coding": "npy", "invalid": "zero", **changes}
    (folder / "dataset.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("coding", "axes", "limit_degrees"),
    [("npy", "rdf", 0.06), ("npz", "rdf", 0.001), ("png8", "rub", 0.5), ("png16", "rub", 0.01)],
)
def test_every_coding_gives_the_same_truth(tmp_path, coding, axes, limit_degrees):
    write_sample(tmp_path, coding=coding)
    describe(tmp_path, coding=coding, axes=axes)
    sample = PictureDataset("train", tmp_path)[0]
    assert sample.valid.all()
    assert np.allclose(np.linalg.norm(sample.normals, axis=2), 1, atol=1e-5)
    assert angular_error_degrees(sample.normals, unit_normals()).max() < limit_degrees


# A wall, a floor and the wall at the left, as each convention writes them.
SURFACES = {
    "rdf": [(0, 0, -1), (0, -1, 0), (1, 0, 0)],  # right, down, forward
    "rub": [(0, 0, 1), (0, 1, 0), (1, 0, 0)],  # right, up, back
    "lub": [(0, 0, 1), (0, 1, 0), (-1, 0, 0)],  # left, up, back
    "rdb": [(0, 0, 1), (0, -1, 0), (1, 0, 0)],  # right, down, back
}


@pytest.mark.parametrize("coding", ["npy", "npz", "png8", "png16"])
@pytest.mark.parametrize("axes", SURFACES)
def test_every_convention_gives_the_same_truth(tmp_path, axes, coding):
    stripes = {
        name: np.repeat(np.float32(rows), 8, axis=0)[:, None].repeat(32, 1) for name, rows in SURFACES.items()
    }
    stored = stripes[axes]
    if coding.startswith("png"):
        stored = stored * np.float32((1, -1, -1))  # undoes what the writers of pictures do
    write_sample(tmp_path, normals=stored, coding=coding)
    describe(tmp_path, axes=axes, coding=coding)
    sample = PictureDataset("train", tmp_path)[0]
    assert angular_error_degrees(sample.normals, stripes["rdf"]).max() < 0.6


def test_only_opaque_pixels_count_where_alpha_is_the_mask(tmp_path):
    write_sample(tmp_path)
    (tmp_path / "normals" / "a.npy").unlink()
    colours = np.full((24, 32, 4), 255, np.uint8)
    colours[:, :, :2], colours[:5, :, 3], colours[5, :, 3] = 128, 0, 127
    Image.fromarray(colours).save(tmp_path / "normals" / "a.png")
    describe(tmp_path, axes="rub", coding="png8", invalid="alpha")
    sample = PictureDataset("train", tmp_path)[0]
    assert np.array_equal(sample.valid.all(axis=1), np.arange(24) > 5)
    assert angular_error_degrees(sample.normals[6:], np.float32((0, 0, -1))).max() < 0.5


def test_previews_beside_the_normals_do_not_matter(tmp_path):
    write_sample(tmp_path)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "normals" / "a.png")
    describe(tmp_path)
    assert PictureDataset("train", tmp_path)[0].valid.all()


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
    (tmp_path / "images" / "room").mkdir()
    (tmp_path / "normals" / "A.NPY").touch()
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


def test_endings_may_be_in_capitals(tmp_path):
    write_sample(tmp_path, "Room/A")
    (tmp_path / "images/Room/A.png").rename(tmp_path / "images/Room/A.PNG")
    (tmp_path / "normals/Room/A.npy").rename(tmp_path / "normals/Room/A.NPY")
    describe(tmp_path)
    assert PictureDataset("train", tmp_path)[0].valid.all()


CAMERA = {"fx": 30, "fy": 31, "cx": 15.5, "cy": 12}


def write_depth_sample(folder, depth, coding="npy", description=None):
    for kind in ("images", "depth"):
        (folder / kind).mkdir()
    Image.fromarray(np.zeros((*depth.shape[:2], 3), np.uint8)).save(folder / "images" / "a.png")
    path = folder / "depth" / f"a{ENDINGS[coding]}"
    if coding == "png16":
        Image.fromarray(np.round(depth * 1000).astype(np.uint16)).save(path)
    elif coding == "npz":
        np.savez(path, depth)
    else:
        np.save(path, depth)
    (folder / "dataset.json").write_text(json.dumps(description or {"depth": "z", "coding": coding}))


def plane_depth(normal, distance=2.0):
    """Exact depth of a plane in the picture of CAMERA, 24 x 32."""
    u, v = np.arange(32) + 0.5, np.arange(24)[:, None] + 0.5
    x, y = (u - CAMERA["cx"]) / CAMERA["fx"], (v - CAMERA["cy"]) / CAMERA["fy"]
    return -distance / (normal[0] * x + normal[1] * y + normal[2]), np.sqrt(1 + x**2 + y**2)


PLANE = np.array([0.28, -0.36, -0.89]) / np.linalg.norm([0.28, -0.36, -0.89])


@pytest.mark.parametrize(("coding", "limit_degrees"), [("npy", 0.001), ("npz", 0.001), ("png16", 0.3)])
@pytest.mark.parametrize("kind", ["z", "ray"])
def test_depth_and_a_camera_stand_for_normals(tmp_path, coding, limit_degrees, kind):
    z, ray_lengths = plane_depth(PLANE)
    depth = z if kind == "z" else z * ray_lengths
    depth[5:9, 5:9] = 0
    write_depth_sample(tmp_path, depth, coding, {"depth": kind, "coding": coding})
    (tmp_path / "cameras.json").write_text(json.dumps(CAMERA))
    sample = PictureDataset("train", tmp_path)[0]
    assert np.array_equal(sample.valid, depth > 0)
    assert angular_error_degrees(sample.normals, PLANE)[sample.valid].max() < limit_degrees
    assert sample.intrinsics == tuple(CAMERA.values())


def test_each_picture_may_have_its_own_camera(tmp_path):
    write_sample(tmp_path, "one")
    write_sample(tmp_path, "two")
    describe(tmp_path)
    assert PictureDataset("train", tmp_path)[1].intrinsics is None
    (tmp_path / "cameras").mkdir()
    for focal, name in enumerate(("one", "two"), start=40):
        (tmp_path / "cameras" / f"{name}.json").write_text(json.dumps({**CAMERA, "fx": focal}))
    dataset = PictureDataset("train", tmp_path)
    assert [dataset[index].intrinsics.fx for index in (0, 1)] == [40, 41]


def depth_without_camera(folder):
    (folder / "cameras.json").unlink()


def broken_camera(folder):
    (folder / "cameras.json").write_text('{"fx": 3, "fy": 3, "cx": 3}')


def impossible_camera(folder):
    (folder / "cameras.json").write_text(json.dumps({**CAMERA, "fy": 0}))


def colours_for_depth(folder):
    np.save(folder / "depth/a.npy", np.zeros((24, 32, 3), np.float32))


def eight_bits(folder):
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(folder / "depth/a.png")
    (folder / "dataset.json").write_text('{"depth": "z", "coding": "png16"}')


def unknown_depth(folder):
    (folder / "dataset.json").write_text('{"depth": "disparity", "coding": "npy"}')


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (depth_without_camera, r"cameras/.*cameras\.json"),
        (broken_camera, r"cameras\.json.*'cy'"),
        (impossible_camera, r"cameras\.json.*fy=0"),
        (colours_for_depth, r"depth/a\.npy.*\(24, 32, 3\)"),
        (eight_bits, r"depth/a\.png.*16 bits"),
        (unknown_depth, "disparity.*z, ray"),
    ],
)
def test_unusable_depth_is_one_line_that_names_the_file(tmp_path, damage, names):
    write_depth_sample(tmp_path, plane_depth(PLANE)[0])
    (tmp_path / "cameras.json").write_text(json.dumps(CAMERA))
    damage(tmp_path)
    with pytest.raises(ValueError, match=names) as caught:
        PictureDataset("train", tmp_path)[0]
    assert str(caught.value).startswith("channel 'train': ")
    assert "\n" not in str(caught.value)


WATCHED = """
import json, sys
from pathlib import Path
from surface_normals.training.dataset import PictureDataset
folder, seen = sys.argv[1], []
def watch(event, arguments):
    if any(isinstance(a, str) and a.startswith(folder) for a in arguments[:1]):
        seen.append((event, arguments[0], arguments[1] if event == "open" else None))
sys.addaudithook(watch)
dataset = PictureDataset("train", Path(folder))
listed, opened = len(seen), list(seen)
dataset[1]
print(json.dumps([opened, seen[listed:]]))
"""


def test_a_streamed_channel_is_listed_once_and_read_when_needed(tmp_path, pytestconfig):
    """FastFile mode: a read-only mount, where each byte that is read comes from S3."""
    for name in ("room/a", "room/b"):
        write_sample(tmp_path, name)
    describe(tmp_path)
    environment = {"PYTHONPATH": str(pytestconfig.rootpath / "container"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", WATCHED, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    at_start, for_a_sample = json.loads(result.stdout)
    listed = [path.removeprefix(f"{tmp_path}/") for event, path, _ in at_start if event == "os.scandir"]
    assert sorted(listed) == ["images", "images/room", "normals", "normals/room"]
    assert [event[:2] for event in at_start if event[0] != "os.scandir"] == [
        ["open", f"{tmp_path}/dataset.json"]
    ]
    assert {path.removeprefix(f"{tmp_path}/") for _, path, _ in for_a_sample} == {
        "images/room/b.png",
        "normals/room/b.npy",
    }
    assert {(event, mode) for event, _, mode in for_a_sample} <= {("open", "r"), ("open", "rb")}


def pictures_in_the_channel_itself(folder):
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    (folder / "images").rmdir()


def two_arrays(folder):
    np.savez(folder / "normals" / "a.npz", one=np.zeros(3), two=np.zeros(3))
    describe(folder, coding="npz")


def alpha_of_an_array(folder):
    describe(folder, invalid="alpha")


def no_description(folder):
    (folder / "dataset.json").unlink()


def bad_description(folder):
    (folder / "dataset.json").write_text("{")


def unknown_axes(folder):
    describe(folder, axes="xyz")


def of_the_world(folder):
    describe(folder, space="world")


def slip_of_the_pen(folder):
    describe(folder, invald="mask")


def depth_with_axes(folder):
    (folder / "dataset.json").write_text('{"depth": "z", "coding": "npy", "axes": "rub"}')


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
        (of_the_world, "space is 'world'.*camera's space"),
        (slip_of_the_pen, "invald is nothing that is known.*axes, coding, invalid"),
        (depth_with_axes, "axes is nothing that is known with depth/"),
        (no_normals, r"images/a\.png.*normals/"),
        (no_pictures, "no pictures"),
        (no_masks, r"images/a\.png.*masks/"),
        (same_name_twice, "same name"),
        (other_size, r"a\.png is 32x24 .*a\.npy is 16x12"),
        (corrupt_picture, r"images/a\.png"),
        (wrong_bits, "8 bits"),
        (pickled_normals, r"normals/a\.npy"),
        (integers, "float16"),
        (
            pictures_in_the_channel_itself,
            r"no folder images/ in .*a\.png, dataset\.json, normals.*belong in images/",
        ),
        (two_arrays, r"a\.npz.*one, two"),
        (alpha_of_an_array, "npy has no alpha"),
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
