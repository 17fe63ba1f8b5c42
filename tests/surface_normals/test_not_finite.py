"""A training whose numbers stop being numbers: once more at half the rate, then a failure that names the pictures."""

import dataclasses
import gc
import json
import re

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.network import SurfaceNormalNetwork
from surface_normals.training import Config, train
from surface_normals.training.synthetic.dataset import write_dataset

# Two steps an epoch, a checkpoint after each epoch.
CONFIG = Config(size="tiny", crop_height=64, crop_width=64, batch_size=2, workers=0, epochs=3)
ASKED_BEFORE = 6
"""Whether to stop, before the first step: for each of the four pictures looked at, after these, before the steps."""


class Job:
    def __init__(self, folder):
        self.folder, self.rates = folder, {}
        for _ in write_dataset(folder / "train", count=4, width=64, height=64, seed=3, kind="objects"):
            pass
        for name in ("model", "output", "checkpoints"):
            (folder / name).mkdir()

    def run(self, damaged_after, damage=None, config=CONFIG):
        """Train; after each step of `damaged_after`, counted over the attempts, the memory loses the weights.

        A second attempt's own beginning counts as one.
        """
        steps = -ASKED_BEFORE

        def should_stop():
            nonlocal steps
            steps += 1
            if steps in damaged_after:
                (damage or damage_every_network)()
            return False

        train(
            config,
            channels={"train": self.folder / "train"},
            model_dir=self.folder / "model",
            output_dir=self.folder / "output",
            checkpoint_dir=self.folder / "checkpoints",
            report=self.report,
            should_stop=should_stop,
        )

    def report(self, name, value, step):
        if name == "learning_rate":
            self.rates[step] = value


def damage_every_network():
    for thing in gc.get_objects():
        if type(thing) is SurfaceNormalNetwork:
            with torch.no_grad():
                next(thing.parameters()).fill_(float("nan"))


def damage_every_gradient():
    for thing in gc.get_objects():
        if type(thing) is SurfaceNormalNetwork:
            thing.head.weight.register_hook(lambda gradient: gradient * float("nan"))


def test_it_goes_on_from_the_last_checkpoint_at_half_the_rate(tmp_path, caplog):
    undisturbed, damaged = Job(tmp_path / "undisturbed"), Job(tmp_path / "damaged")
    undisturbed.run(damaged_after=())
    damaged.run(damaged_after={3})  # the second epoch's first step
    assert "trying once more from the last checkpoint, at half the rate" in caplog.text
    assert damaged.rates[2] == undisturbed.rates[2]
    assert damaged.rates[6] == pytest.approx(undisturbed.rates[6] / 2)
    weights = load_file(tmp_path / "damaged/model/model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert json.loads((tmp_path / "damaged/model/model.json").read_text())["trained"]["step"] == 6


def test_the_second_time_it_fails_with_the_step_and_the_pictures(tmp_path):
    job = Job(tmp_path / "job")
    with pytest.raises(FloatingPointError) as caught:
        job.run(damaged_after={3, 6})  # steps 1 to 4, then from 2 once more 3
    found = re.search(
        r"not finite at step 4, pictures (\d{6}), (\d{6}): lower learning_rate", str(caught.value)
    )
    assert found, caught.value
    assert not (job.folder / "model" / "model.json").exists()
    newest = max((job.folder / "checkpoints").glob("*.safetensors"))
    assert all(tensor.isfinite().all() for tensor in load_file(newest).values())


def test_with_float16_gradients_that_stay_no_numbers_are_found_too(tmp_path, caplog):
    """A few such steps are the scaler's to leave out; here none of them ever is a number."""
    config = dataclasses.replace(CONFIG, precision="float16", epochs=40)
    job = Job(tmp_path / "job")
    with pytest.raises(FloatingPointError, match="not finite at step"):
        job.run(range(1, 100), damage_every_gradient, config)
    assert "trying once more" in caplog.text
    assert "training health: loss_scale_sunken" in caplog.text
