"""compile=true through torch's own compiler: it changes the cost of a step, not what it does."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
import torch

from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.training import Config
from surface_normals.training.batches import training_batches
from surface_normals.training.compiling import require_compiler
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

CONFIG = Config(size="tiny", crop_height=64, crop_width=64, batch_size=4, workers=0)
STEPS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=4, width=64, height=64, seed=3, kind="objects"):
        pass
    return PictureDataset("train", folder)


def trained(config, pictures):
    trainer = Trainer(config, {}, STEPS)
    steps = [trainer.train_step(batch) for batch in training_batches(config, pictures, 0, STEPS)]
    return trainer, [step.loss.item() for step in steps]


@pytest.mark.long
def test_a_compiled_step_does_what_the_plain_one_does(pictures, tmp_path):
    plain, losses = trained(CONFIG, pictures)
    compiled, same_losses = trained(dataclasses.replace(CONFIG, compile=True), pictures)
    assert same_losses == pytest.approx(losses, abs=2e-4)  # sums in another order
    assert compiled.forward is not plain.forward
    expected, got = (trainer.checkpoint(pictures).tensors for trainer in (plain, compiled))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (tensor.float() - got[name].float()).abs().mean() < 1e-4, name
    save_artifact(tmp_path, compiled.model(), {})
    network, _ = load_artifact(tmp_path)
    assert all(
        torch.equal(value, got[f"average.module.{name}"]) for name, value in network.state_dict().items()
    )


@pytest.mark.parametrize(
    ("device", "named", "cure"),
    [("cpu", "g++", "g++ and python3-dev"), ("cuda", "gcc or clang", "COMPILE=1")],
)
def test_without_a_compiler_it_is_refused_with_the_cure(tmp_path, device, named, cure):
    code = (
        "import torch; from surface_normals.training.compiling import require_compiler\n"
        f"require_compiler(torch.device({device!r}))"
    )
    container = next(path for path in sys.path if path.endswith("container"))
    environment = {"PATH": str(tmp_path), "PYTHONPATH": container, "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: compile=true needs {named}")
    assert cure in last


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_with_a_compiler_it_is_not_refused():
    require_compiler(torch.device("cpu"))
