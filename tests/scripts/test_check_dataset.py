"""scripts/check_dataset.py as its users start it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surface_normals.training.synthetic import write_dataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_dataset.py"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=6, width=96, height=64, seed=1, kind="rooms"):
        pass
    return folder


def run(*words, cwd):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_good_data_pass_and_their_sheet_shows_them(tmp_path, rooms):
    done = run(rooms, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 of 96x64" in done.stdout
    assert "facing as rdf" in done.stdout
    assert "<- declared" in done.stdout.split("facing as rdf")[1].splitlines()[0]
    sheet = np.asarray(Image.open(tmp_path / "dataset-check.png")).astype(int)
    assert sheet.shape == (2 * 120, 8 * 160, 3)
    expected = np.asarray(
        Image.open(rooms / "images/000000.png").resize((156, 104), Image.Resampling.BILINEAR)
    )
    assert np.abs(sheet[8:112, 2:158] - expected).max() <= 1
    blue = sheet[8:112, 162:318, 2]  # towards the camera: lilac, not its opposite
    assert np.median(blue) > 140


def test_a_wrong_declaration_is_refused_with_the_right_one(tmp_path, rooms):
    shutil.copytree(rooms, tmp_path / "train")
    description = json.loads((rooms / "dataset.json").read_text())
    (tmp_path / "train/dataset.json").write_text(json.dumps({**description, "axes": "rub"}))
    refused = run("train", "--sample", 2, "--sheet", "out/sheet.png", cwd=tmp_path)
    assert refused.returncode == 1
    assert 'what fits is "rdf"' in refused.stdout
    assert "6, 2 read" in refused.stdout
    assert (tmp_path / "out/sheet.png").is_file()


def test_damaged_files_and_shared_pictures_are_named(tmp_path, rooms):
    shutil.copytree(rooms, tmp_path / "other")
    for name in ("images/000001.png", "normals/000004.npy"):
        (tmp_path / "other" / name).write_bytes(b"damaged")
    refused = run(rooms, "other", cwd=tmp_path)
    assert refused.returncode == 1
    assert "5 pictures are in both" in refused.stdout
    assert "damaged  channel 'other': other/images/000001.png" in refused.stdout
    assert "damaged  channel 'other': other/normals/000004.npy" in refused.stdout


def test_what_is_no_data_set_is_one_clear_line(tmp_path):
    refused = run("nowhere", cwd=tmp_path)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "no folder images/ in nowhere, which holds nothing" in refused.stderr
