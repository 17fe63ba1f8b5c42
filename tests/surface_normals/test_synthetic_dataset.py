"""The folder that the generator writes."""

import json

import numpy as np
import pytest
from PIL import Image

from surface_normals.training.synthetic import Look, picture_seed, render, write_dataset

SMALL = {"width": 32, "height": 24, "seed": 7, "kind": "mixed"}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_dataset_is_pictures_normals_and_a_description(tmp_path):
    folder = tmp_path / "new" / "data"
    paths = list(write_dataset(folder, count=3, **SMALL))
    assert paths == [folder / f"images/{index:06d}.png" for index in range(3)]
    assert sorted(contents(folder)) == [
        "dataset.json",
        *(f"images/{index:06d}.png" for index in range(3)),
        *(f"normals/{index:06d}.npy" for index in range(3)),
    ]
    description = json.loads((folder / "dataset.json").read_text())
    assert {name: description[name] for name in ("axes", "coding", "invalid")} == {
        "axes": "rdf",
        "coding": "npy",
        "invalid": "zero",
    }
    assert description["generator"]["kind"] == "mixed"
    assert description["generator"]["seed"] == 7


def test_files_hold_what_render_makes_from_the_pictures_seed(tmp_path):
    list(write_dataset(tmp_path / "data", count=2, **SMALL))
    for index in range(2):
        scene = render(picture_seed(7, index), 32, 24, "mixed")
        with Image.open(tmp_path / f"data/images/{index:06d}.png") as image:
            assert (np.asarray(image) == scene.image).all()
        normals = np.load(tmp_path / f"data/normals/{index:06d}.npy")
        assert normals.dtype == np.float16
        assert (normals == scene.normals.astype(np.float16)).all()
        assert ((normals == 0).all(-1) == ~scene.valid).all()


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    for workers in (1, 3):
        list(write_dataset(tmp_path / str(workers), count=5, workers=workers, **SMALL))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_seed_kind_and_look_each_change_the_pictures(tmp_path):
    changes = [{}, {"seed": 8}, {"kind": "rooms"}, {"look": Look(lights=(1, 1), gloss=0.0)}]
    pictures = []
    for number, change in enumerate(changes):
        list(write_dataset(tmp_path / str(number), count=4, **{**SMALL, **change}))
        pictures.append(b"".join(p.read_bytes() for p in sorted((tmp_path / str(number)).glob("images/*"))))
    assert len(set(pictures)) == len(changes)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_broken_off_leaves_nothing(tmp_path, workers):
    pictures = write_dataset(tmp_path / "data", count=50, workers=workers, **SMALL)
    assert not list(tmp_path.iterdir())
    next(pictures)
    assert list(tmp_path.iterdir())
    assert not (tmp_path / "data").exists()
    pictures.close()
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    list(write_dataset(folder, count=1, **SMALL))
    before = contents(folder)
    with pytest.raises(FileExistsError, match="data exists and is not an empty folder"):
        write_dataset(folder, count=1, **SMALL)
    with pytest.raises(FileExistsError, match="json exists and is not an empty folder"):
        write_dataset(folder / "dataset.json", count=1, **SMALL)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"count": 0}, "count is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"width": 4}, "4 x 24 pixels is too small"),
        ({"kind": "sky"}, "kind 'sky' is not one of"),
    ],
)
def test_bad_arguments_are_refused_at_once(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_dataset(tmp_path / "data", **{"count": 1, **SMALL, **change})
    assert not list(tmp_path.iterdir())
