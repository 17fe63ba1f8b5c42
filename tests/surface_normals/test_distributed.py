"""Two processes that share each batch, against one that has all of it; on the CPU, with gloo."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from surface_normals.training import Config
from surface_normals.training.batches import training_batches
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.distributed import share_of
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 3
CONFIG = Config(size="tiny", crop_height=64, crop_width=64, batch_size=2, workers=0, epochs=EPOCHS)
STEPS = EPOCHS * 2  # five pictures, four a step: the second step of an epoch has one, and one rank none

ONE_OF_TWO = """
import sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_distributed import CONFIG, train_some
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{{folder}}/store", timedelta(seconds=60), 2, rank)
train_some(CONFIG, folder, f"{{rank}}")
dist.barrier()
dist.destroy_process_group()
"""


def train_some(config, folder, name):
    """Take the steps; leave the loss of each, as all ranks see it, the names, and the weights."""
    dataset = PictureDataset("train", folder / "train")
    trainer = Trainer(config, {}, STEPS)
    losses, names = [], []
    for batch in training_batches(config, dataset, 0, STEPS):
        step = trainer.train_step(batch)
        losses.append(trainer.ranks.mean(step.loss).item())
        names.append([name for name, valid in zip(batch.names, batch.valid, strict=True) if valid.any()])
    (folder / f"{name}.json").write_text(json.dumps({"losses": losses, "names": names}))
    save_file({key: value.contiguous() for key, value in trainer.network.state_dict().items()}, folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process and each of two left, after the same steps on the same pictures."""
    folder = tmp_path_factory.mktemp("runs")
    for _ in write_dataset(folder / "train", count=5, width=64, height=64, seed=3, kind="objects"):
        pass
    # Half of one picture has no truth: the ranks' means are of unequal numbers of pixels.
    mask_out_half(folder / "train")
    code = ONE_OF_TWO.format(tests=str(Path(__file__).parent))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "container"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    two = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)], env=environment)
        for rank in (0, 1)
    ]
    train_some(dataclasses.replace(CONFIG, batch_size=4), folder, "alone")
    assert [process.wait(timeout=120) for process in two] == [0, 0]
    return folder


def mask_out_half(dataset):
    path = dataset / "normals" / "000001.npy"
    normals = np.load(path)
    normals[:40] = 0
    np.save(path, normals)


def told(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_two_processes_give_the_loss_curve_of_one_with_twice_the_batch(runs):
    alone, first, second = (told(runs, name)["losses"] for name in ("alone", "0", "1"))
    assert first == second
    assert first == pytest.approx(
        alone, abs=2e-4
    )  # float32 sums in another order; the loss itself is about 1
    assert abs(alone[0] - alone[-1]) > 0.05  # it does change


def test_two_processes_have_the_same_weights(runs):
    first, second, alone = (load_file(runs / name) for name in ("0", "1", "alone"))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        # Adam takes whole steps (here up to 3e-4) for gradients that are hardly more than rounding: so the mean.
        assert (weight - alone[name]).abs().mean() < 1e-5, name


def test_every_sample_is_seen_once_an_epoch(runs):
    alone, first, second = (told(runs, name)["names"] for name in ("alone", "0", "1"))
    for step in range(STEPS):
        assert first[step] + second[step] == alone[step]
    for epoch in range(EPOCHS):
        seen = [*alone[2 * epoch], *alone[2 * epoch + 1]]
        assert sorted(seen) == [f"00000{index}" for index in range(5)]


@pytest.mark.parametrize("size", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_of_a_batch_are_even_and_make_it_up(size, count):
    batch = list(range(size))
    parts = [share_of(batch, rank, count) for rank in range(count)]
    assert [item for part in parts for item in part] == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
