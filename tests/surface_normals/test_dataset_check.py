"""What the check says of channels that are right, wrongly declared, damaged, or not what they should be."""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from surface_normals import axes
from surface_normals.training.cameras import assumed_intrinsics, rays
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.dataset_check import check_before_training, inspect, shared_pictures, spread

HEIGHT, WIDTH = 48, 64
RAYS = rays(assumed_intrinsics(HEIGHT, WIDTH), HEIGHT, WIDTH)
CROP = (32, 32)


def room():
    """A corridor seen along its axis, `rdf`: walls, floor and ceiling meet the wall at its end."""
    x, y = RAYS[:, :, 0], RAYS[:, :, 1]
    distances = np.stack([np.full(x.shape, 0.3), -x, x, y, -y])
    surfaces = np.float32([(0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 1, 0)])
    return surfaces[distances.argmax(axis=0)]


def write(folder, scenes, *, stored_in="rdf", declared=None):
    for kind in ("images", "normals"):
        (folder / kind).mkdir(parents=True)
    random = np.random.default_rng(len(scenes))
    for index, normals in enumerate(scenes):
        picture = random.integers(0, 256, (*normals.shape[:2], 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"images/{index}.png")
        np.save(folder / f"normals/{index}.npy", axes.convert(normals, stored_in))
    description = {"axes": declared or stored_in, "coding": "npy", "invalid": "zero"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return PictureDataset("train", folder)


def findings_of(dataset):
    return inspect(dataset, range(len(dataset)))


@pytest.mark.parametrize("declared", axes.TO_RDF)
@pytest.mark.parametrize("stored_in", axes.TO_RDF)
def test_axes_are_told_apart_and_the_right_ones_are_named(tmp_path, stored_in, declared):
    dataset = write(tmp_path, [room()], stored_in=stored_in, declared=declared)
    findings = findings_of(dataset)
    assert findings.facing_share(stored_in) == 1
    assert max(findings.facing_share(name) for name in axes.TO_RDF if name != stored_in) < 0.9
    if declared == stored_in:
        check_before_training(dataset, None, CROP)
        return
    with pytest.raises(ValueError, match=f'axes "{declared}".*what fits is "{stored_in}"') as caught:
        check_before_training(dataset, None, CROP)
    assert str(caught.value).startswith("channel 'train': ")
    assert "\n" not in str(caught.value)


def test_where_several_axes_fit_floors_that_point_up_decide(tmp_path):
    slope = np.full((HEIGHT, WIDTH, 3), (0, -0.9, -0.436), np.float32)
    slope[:32] = (0, 0, -1)
    findings = findings_of(write(tmp_path, [slope], stored_in="rdb", declared="rdf"))
    assert findings.refusal.endswith('what fits is "rdb" (100.0 %) or "rub" (100.0 %) or "lub" (100.0 %)')


def test_floors_that_point_down_are_a_warning(tmp_path):
    floor = np.full((HEIGHT, WIDTH, 3), (0, 0.9, -0.436), np.float32)
    floor[:32] = (0, 0, -1)
    assert any("is y the other way" in text for text in findings_of(write(tmp_path, [floor])).warnings())


def test_normals_of_the_world_fit_no_axes(tmp_path):
    turned = room() @ np.float32([(0, 0, 1), (1, 0, 0), (0, 1, 0)])
    findings = findings_of(write(tmp_path, [turned]))
    assert findings.refusal is None
    assert any("not in the world's" in text for text in findings.warnings())


def test_normals_in_colours_are_not_unit(tmp_path):
    findings = findings_of(write(tmp_path, [(room() + 1) / 2]))
    assert any("length 1" in text for text in findings.warnings())


def test_pictures_that_are_smaller_than_the_crop_are_a_warning(tmp_path, caplog):
    dataset = write(tmp_path, [room()])
    check_before_training(dataset, dataset, CROP)
    assert "smaller" not in caplog.text
    check_before_training(dataset, None, (32, 96))
    assert "1 of 1 pictures are smaller than the training crop of 96x32" in caplog.text


def test_empty_truth_and_damaged_files_are_refused(tmp_path):
    dataset = write(tmp_path, [np.zeros((HEIGHT, WIDTH, 3), np.float32)])
    assert "has a normal" in findings_of(dataset).refusal
    (tmp_path / "normals/0.npy").write_bytes(b"damaged")
    assert "0.npy" in findings_of(dataset).refusal
    with pytest.raises(ValueError, match=r"0\.npy"):
        check_before_training(dataset, None, CROP)


def test_the_same_picture_in_two_channels_is_found_under_any_name(tmp_path, caplog):
    first, second = write(tmp_path / "a", [room()] * 5), write(tmp_path / "b", [room()] * 6)
    assert shared_pictures(first, second) == []
    shutil.copy(tmp_path / "a/images/3.png", tmp_path / "b/images/1.png")
    assert shared_pictures(first, second) == [("3", "1")]
    assert shared_pictures(first, second, [0, 2]) == []
    with caplog.at_level(logging.WARNING):
        check_before_training(first, second, CROP)
    assert "1 of 6 pictures of channel" in caplog.text


def test_a_large_channel_is_looked_at_in_few_places(tmp_path):
    assert spread(5, 32) == [0, 1, 2, 3, 4]
    places = spread(10_001, 32)
    assert (len(places), places[0], places[-1]) == (32, 0, 10_000)
    assert max(np.diff(places)) - min(np.diff(places)) <= 1
    dataset = write(tmp_path, [room()] * 70)
    for index in set(range(70)) - set(spread(70, 32)):
        dataset.truth[dataset.names[index]].unlink()
    check_before_training(dataset, None, CROP)  # reads no other file
