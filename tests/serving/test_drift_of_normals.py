"""Drift through a network that was trained for it: what changed in pictures is told, by the right figure."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from serving.drift import DriftWatch
from surface_normals.predictor import load
from surface_normals.training import Config, train
from surface_normals.training.dataset import PictureDataset
from watch_alarms import OF_SERVING

pytestmark = pytest.mark.slow

SIDE = 64
SETS = {"train": 64, "validation": 300, "served": 300}
[ALARM] = [rule for rule in OF_SERVING if rule.metric == "DriftPsi"]


def write_planes(folder, count, seed):
    """Floors and, one of five, ceilings: rough, lit from the camera, and so the darker the farther."""
    random = np.random.default_rng(seed)
    for kind in ("images", "normals"):
        (folder / kind).mkdir(parents=True)
    (folder / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    rows = np.linspace(-1, 1, SIDE)[:, None, None]
    for number in range(count):
        down = random.uniform(0.3, 0.9) * random.choice([-1, 1], p=[0.8, 0.2])  # of its normal
        light = random.uniform(0.4, 0.6) - 0.4 * down * rows + random.normal(0, 0.06, (SIDE, SIDE, 1))
        picture = (255 * light.clip(0, 1)).astype(np.uint8).repeat(3, axis=2)
        Image.fromarray(picture).save(folder / "images" / f"{number:03}.png")
        normal = np.float32([0, down, -np.sqrt(1 - down**2)])
        np.save(folder / "normals" / f"{number:03}.npy", np.broadcast_to(normal, (SIDE, SIDE, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Planes, and in `model` a network that has learnt a little of them."""
    folder = tmp_path_factory.mktemp("planes")
    for seed, (name, count) in enumerate(SETS.items()):
        write_planes(folder / name, count, seed)
    for name in ("model", "output/data", "checkpoints"):
        (folder / name).mkdir(parents=True)
    train(
        Config(
            size="tiny",
            encoder_weights="random",
            epochs=15,
            augment="none",
            batch_size=16,
            crop_height=SIDE,
            crop_width=SIDE,
            workers=0,
            learning_rate=2e-3,
            evaluate_epochs=1000,
        ),
        channels={name: folder / name for name in ("train", "validation")},
        model_dir=folder / "model",
        output_dir=folder / "output/data",
        checkpoint_dir=folder / "checkpoints",
        report=lambda name, value, step: None,
        should_stop=lambda: False,
    )
    return folder


@pytest.fixture(scope="module")
def pictures(folder):
    """Others of the same kind."""
    served = PictureDataset("served", folder / "served")
    return [served[index].picture for index in range(len(served))]


def unchanged(picture):
    return picture


def at_night(picture):
    return (picture * 0.25).astype(np.uint8)


def blurred(picture):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2)))


def upside_down(picture):
    return np.ascontiguousarray(picture[::-1])


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        (unchanged, set()),
        (at_night, {"brightness", "contrast"}),
        (blurred, {"sharpness"}),
        (upside_down, {"normal_down"}),
    ],
)
def test_what_changed_is_told_by_its_figure(folder, pictures, change, figures):
    predictor, clock = load(folder / "model", engine="eager"), itertools.count()
    watch = DriftWatch(predictor.reference, predictor.describe, lambda: next(clock))
    for picture in map(change, pictures):
        (prediction,) = predictor.predict([picture])
        watch.look(picture, prediction)
    psi = {name: distance.psi for name, distance in watch.distances().items()}
    assert {name for name in psi if psi[name] > ALARM.threshold} >= figures, psi
    assert set(list(psi)[: len(figures)]) == figures, psi  # the most unlike ones
    if change is unchanged:
        assert max(psi.values()) < ALARM.threshold, psi
