"""scripts/convert_dataset.py on small files in the layouts that the data sets are published in."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from convert_dataset import write
from surface_normals import axes
from surface_normals.training.cameras import Intrinsics, rays
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import angular_error_degrees

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_dataset.py"
SLOPE = np.array([0.48, -0.36, -0.8])


def convert(*words, cwd):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def slope_depth(camera, height, width):
    """Exact depth of a plane with the normal SLOPE, two metres away."""
    return (-2 / (rays(camera, height, width) @ SLOPE)).astype(np.float32)


def picture_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expect_slope(sample, share):
    assert sample.valid.mean() > share
    assert angular_error_degrees(sample.normals, SLOPE)[sample.valid].max() < 0.1


def test_nyuv2(tmp_path):
    camera = Intrinsics(518.857901, 519.469611, 325.082449, 253.236166)
    depth = slope_depth(camera, 480, 640)
    depth[100:200, 100:200] = 0
    pictures = np.stack([picture_of(480, 640, seed) for seed in range(3)])
    # MATLAB writes column by column, so HDF5 shows its HxWx3xN as NxWxH.
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = pictures.transpose(0, 3, 2, 1)
        file["depths"] = np.full((3, 640, 480), 5, np.float32)
        file["rawDepths"] = np.stack([depth.T] * 2 + [np.zeros((640, 480), np.float32)])
    scipy.io.savemat(
        tmp_path / "splits.mat",
        {"trainNdxs": np.array([[1]], np.uint16), "testNdxs": np.array([[2], [3]], np.uint16)},
    )
    split = ("--splits", "splits.mat", "--part", "test")
    done = convert("nyuv2", "nyu_depth_v2_labeled.mat", "out", *split, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 1 pictures; 1 left out, which have hardly any truth\n"
    dataset = PictureDataset("test", tmp_path / "out")
    assert dataset.names == ["0002"]
    sample = dataset[0]
    assert np.array_equal(sample.picture, pictures[1])
    expect_slope(sample, 0.7)
    assert not sample.valid[:45].any()
    assert not sample.valid[:, 608:].any()
    assert not sample.valid[100:200, 100:200].any()
    assert sample.intrinsics == pytest.approx(camera)


def test_diode(tmp_path):
    folder = tmp_path / "val/indoors/scene_00019/scan_00183"
    folder.mkdir(parents=True)
    name = "00019_00183_indoors_000_010"
    camera = Intrinsics(886.81 / 8, 927.06 / 8, 64, 48)
    depth = slope_depth(camera, 96, 128)
    mask = np.ones((96, 128))
    mask[:30] = 0
    Image.fromarray(picture_of(96, 128)).save(folder / f"{name}.png")
    np.save(folder / f"{name}_depth.npy", depth[:, :, None])
    np.save(folder / f"{name}_depth_mask.npy", mask)
    done = convert("diode", "val", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = PictureDataset("val", tmp_path / "out")
    assert dataset.names == [f"indoors/scene_00019/scan_00183/{name}"]
    expect_slope(dataset[0], 0.65)
    assert np.array_equal(dataset[0].valid, mask > 0)


def test_hypersim(tmp_path):
    images = tmp_path / "ai_001_001/images"
    for folder in ("scene_cam_00_geometry_hdf5", "scene_cam_00_final_preview"):
        (images / folder).mkdir(parents=True)
    stored = axes.convert(np.full((96, 128, 3), SLOPE, np.float32), "rub").astype(np.float16)
    stored[:20] *= -1  # turned away by its artist
    stored[20:30] = np.nan
    stored[30:40] *= 3  # not of length 1
    with h5py.File(images / "scene_cam_00_geometry_hdf5/frame.0007.normal_cam.hdf5", "w") as file:
        file["dataset"] = stored
    Image.fromarray(picture_of(96, 128)).save(images / "scene_cam_00_final_preview/frame.0007.tonemap.jpg")
    done = convert("hypersim", ".", "out", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = PictureDataset("train", tmp_path / "out")
    assert dataset.names == ["ai_001_001/scene_cam_00/0007"]
    expect_slope(dataset[0], 0.85)
    assert np.array_equal(dataset[0].valid.all(axis=1), (np.arange(96) < 20) | (np.arange(96) >= 30))
    assert dataset[0].intrinsics == pytest.approx((886.81 / 8, 886.81 / 8, 64, 48))


def test_an_rgbd_camera(tmp_path):
    camera = Intrinsics(60.0, 61.0, 31.0, 25.0)
    (tmp_path / "camera.json").write_text(json.dumps(camera._asdict()))
    depth = slope_depth(camera, 48, 64)
    for folder in ("rgb/walk", "depth/walk"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("one", "two"):
        Image.fromarray(picture_of(48, 64)).save(tmp_path / f"rgb/walk/{name}.jpg")
    np.save(tmp_path / "depth/walk/one.npy", depth * np.linalg.norm(rays(camera, 48, 64), axis=2))
    Image.fromarray(np.round(depth * 0).astype(np.uint16)).save(tmp_path / "depth/walk/two.png")
    words = ("--depth", "depth", "--camera", "camera.json", "--depth-is", "ray")
    done = convert("rgbd", "rgb", "out", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 1 pictures; 1 left out, which have hardly any truth\n"
    dataset = PictureDataset("train", tmp_path / "out")
    assert dataset.names == ["walk/one"]
    expect_slope(dataset[0], 0.99)
    (tmp_path / "depth/walk/two.png").unlink()
    refused = convert("rgbd", "rgb", "half", *words, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("convert_dataset: rgb/walk/two.jpg has 0 files depth/walk/two.png")
    with pytest.raises(ValueError, match=r"no .*dataset\.json"):
        PictureDataset("train", tmp_path / "half")  # half a conversion is no data set


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write(tmp_path, iter(()), "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
