"""Two processes that share each batch, and the network or not, against one that has all; on the CPU, with gloo."""

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
from torch.distributed.tensor import DTensor

from surface_normals.encoders import build_encoder
from surface_normals.training import Config
from surface_normals.training.batches import training_batches
from surface_normals.training.checkpoints import save_checkpoint, with_prefix
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.distributed import share_of
from surface_normals.training.sharding import blocks, whole
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 3
CONFIG = Config(size="tiny", crop_height=64, crop_width=64, batch_size=2, workers=0, epochs=EPOCHS)
STEPS = EPOCHS * 2  # five pictures, four a step: the second step of an epoch has one, and one rank none
TWO = {  # what the two processes run: each a list of trainings that go on from one another's checkpoint
    "copies": [CONFIG],
    "copies, portions": [dataclasses.replace(CONFIG, accumulate=2)],
    "parts": [FULL := dataclasses.replace(CONFIG, sharding="full")],
    "parts, portions": [dataclasses.replace(FULL, accumulate=2)],
    "float16, copies": [dataclasses.replace(CONFIG, precision="float16")],
    "float16, parts": [dataclasses.replace(FULL, precision="float16")],
    "parts, parts": [FULL, FULL],
    "parts, copies": [FULL, CONFIG],
    "copies, parts": [CONFIG, FULL],
}

ONE_OF_TWO = """
import sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_distributed import TWO, train_some
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{{folder}}/store", timedelta(seconds=60), 2, rank)
for name, configs in TWO.items():
    train_some(configs, folder, f"{{name}} {{rank}}")
dist.barrier()
dist.destroy_process_group()
"""


LEADER_ALONE = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from surface_normals.training.distributed import Ranks
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=10), 2, rank)
began = time.monotonic()

def work(should_stop):
    time.sleep(14)
    return should_stop()

print(Ranks().leader_alone(work, lambda: rank == 1 and time.monotonic() - began > 1))
print(Ranks().any(rank == 1))
dist.destroy_process_group()
"""


def train_some(configs, folder, name):
    """Take the steps; leave what was seen, by this rank alone and by all, and the weights."""
    dataset = PictureDataset("train", folder / "train")
    told = {"losses": [], "names": [], "norms": []}
    step = 0
    for part, config in enumerate(configs, start=1):
        trainer = Trainer(config, {}, STEPS)
        if step:
            trainer.resume(folder / name.rpartition(" ")[0], dataset)
            assert trainer.step == step
        last = step + STEPS // len(configs)
        for batch in training_batches(config, dataset, step, last):
            taken = trainer.train_step(batch)
            told["losses"].append(trainer.ranks.mean(taken.loss).item())
            told["norms"].append(taken.gradient_norm.item())
            told["names"].append(
                [name for name, valid in zip(batch.names, batch.valid, strict=True) if valid.any()]
            )
        step = last
        checkpoint = trainer.checkpoint(dataset)
        if trainer.ranks.is_leader and part < len(configs):
            (checkpoint_dir := folder / name.rpartition(" ")[0]).mkdir()
            save_checkpoint(checkpoint_dir, step, checkpoint.facts, checkpoint.tensors)
    told["norms of parts"] = trainer.gradients.take()
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    held = [*trainer.network.parameters(), *state]
    told["numbers held"] = sum(
        (value.to_local() if isinstance(value, DTensor) else value).numel() for value in held
    )
    (folder / f"{name}.json").write_text(json.dumps(told))
    weights = whole(trainer.network.state_dict(), keep=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)
    if model := trainer.model():
        average = with_prefix(checkpoint.tensors, "average.module.")
        for kind, tensors in (("model", model.state_dict()), ("average", average)):
            save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name} {kind}")


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
    train_some([dataclasses.replace(CONFIG, batch_size=4)], folder, "alone")
    assert [process.wait(timeout=300) for process in two] == [0, 0]
    return folder


def mask_out_half(dataset):
    path = dataset / "normals" / "000001.npy"
    normals = np.load(path)
    normals[:40] = 0
    np.save(path, normals)


def told(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


EXACT = [name for name in TWO if "float16" not in name]


@pytest.mark.parametrize("pair", EXACT)
def test_two_processes_give_the_loss_curve_of_one_with_twice_the_batch(runs, pair):
    alone, first, second = (told(runs, name)["losses"] for name in ("alone", f"{pair} 0", f"{pair} 1"))
    assert first == second
    # float32 sums in another order; the loss itself is about 1
    assert first == pytest.approx(alone, abs=2e-4)
    assert abs(alone[0] - alone[-1]) > 0.05  # it does change


@pytest.mark.parametrize("pair", TWO)
def test_two_processes_have_the_same_weights(runs, pair):
    first, second, alone = (load_file(runs / name) for name in (f"{pair} 0", f"{pair} 1", "alone"))
    assert first.keys() == alone.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        # Adam takes whole steps (here up to 3e-4) for gradients that are hardly more than rounding: so the mean.
        assert pair not in EXACT or (weight - alone[name]).abs().mean() < 1e-5, name


def test_half_precision_takes_and_leaves_the_same_steps(runs):
    """On one rank alone a part of the gradients may be beyond float16: the step is then left out on both."""
    copies, first, second = (told(runs, f"float16, {name}") for name in ("copies 0", "parts 0", "parts 1"))
    assert first["losses"] == second["losses"] == pytest.approx(copies["losses"], abs=1e-2)
    left_out = [[norm == 0 for norm in run["norms"]] for run in (copies, first, second)]
    assert left_out[0] == left_out[1] == left_out[2]
    assert any(left_out[0])  # the scale begins high
    assert not all(left_out[0])


@pytest.mark.parametrize("pair", EXACT)
def test_two_processes_see_the_gradients_of_one(runs, pair):
    alone, first, second = (told(runs, name) for name in ("alone", f"{pair} 0", f"{pair} 1"))
    assert first["norms"] == second["norms"]
    assert first["norms"] == pytest.approx(alone["norms"], rel=5e-3)
    if "," not in pair:  # those that go on have measured fewer steps
        assert first["norms of parts"] == pytest.approx(alone["norms of parts"], rel=5e-3)


@pytest.mark.parametrize("pair", TWO)
def test_the_leader_has_the_whole_model(runs, pair):
    model, average = (load_file(runs / f"{pair} 0 {kind}") for kind in ("model", "average"))
    assert model.keys() == average.keys() == load_file(runs / "alone").keys()
    assert all(torch.equal(model[name], average[name]) for name in model)
    assert (runs / f"{pair} 1 model").exists() == pair.endswith(("copies", "copies, portions"))


def test_parts_are_half_of_the_whole(runs):
    alone, *two = (told(runs, name)["numbers held"] for name in ("alone", "parts 0", "parts 1"))
    assert sum(two) == pytest.approx(alone, rel=1e-3)  # the optimiser counts its steps on both
    assert max(two) < 0.55 * alone


def test_resumed_parts_give_the_same_bits(runs):
    resumed, undisturbed = (load_file(runs / name) for name in ("parts, parts 0", "parts 0"))
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


def test_every_sample_is_seen_once_an_epoch(runs):
    alone, first, second = (told(runs, name)["names"] for name in ("alone", "copies 0", "copies 1"))
    for step in range(STEPS):
        assert first[step] + second[step] == alone[step]
    for epoch in range(EPOCHS):
        seen = [*alone[2 * epoch], *alone[2 * epoch + 1]]
        assert sorted(seen) == [f"00000{index}" for index in range(5)]


@pytest.mark.slow
def test_the_leader_may_work_longer_than_the_collective_timeout_and_hears_of_a_stop(tmp_path):
    environment = {"PYTHONPATH": str(ROOT / "container"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEADER_ALONE]
    two = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=120)[0].split()[-2:] for process in two]  # gloo speaks first
    assert told == [["True", "(True,)"], ["None", "(True,)"]]


@pytest.mark.parametrize("size", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_of_a_batch_are_even_and_make_it_up(size, count):
    batch = list(range(size))
    parts = [share_of(batch, rank, count) for rank in range(count)]
    assert [item for part in parts for item in part] == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("encoder", "block", "count"),
    [("convnext_tiny", "CNBlock", 18), ("timm:swin_tiny_patch4_window7_224", "SwinTransformerBlock", 12)],
)
def test_every_block_of_an_encoder_is_gathered_by_itself_and_its_layers_with_it(encoder, block, count):
    found = [type(module).__name__ for module in blocks(build_encoder(encoder))]
    assert found.count(block) == count
    assert "Linear" not in found
