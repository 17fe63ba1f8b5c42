"""Two processes with pictures of their own, as hosts have them with ShardedByS3Key; on the CPU, with gloo."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.training import Config, train
from surface_normals.training.batches import Batch, training_batches
from surface_normals.training.distributed import Ranks
from surface_normals.training.shares import Share, TrainingPictures
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 2
CONFIG = Config(size="tiny", crop_height=64, crop_width=64, batch_size=2, workers=0, epochs=EPOCHS)
CASES = {"5 and 3": (range(5), range(5, 8)), "5 and none": (range(5), ()), "none and 5": ((), range(5))}
STEPS = EPOCHS * 3  # two a step of the five

ONE_OF_TWO = """
import sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
sys.path.insert(0, {tests!r})
import test_shares
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{{folder}}/store", timedelta(seconds=60), 2, rank)
for case in test_shares.CASES:
    test_shares.train_some(folder / case, str(rank))
for case in test_shares.JOBS:
    test_shares.run_job(folder / case, str(rank))
dist.barrier()
dist.destroy_process_group()
"""


def train_some(folder, host):
    """Take the steps; leave what this rank was given at each, and the loss as all ranks see it."""
    ranks = Ranks()
    pictures = TrainingPictures(folder / host, ranks)
    trainer = Trainer(CONFIG, {}, EPOCHS * pictures.share.steps_per_epoch(CONFIG.batch_size))
    batches = list(training_batches(CONFIG, pictures, 0, trainer.num_steps))
    losses = [ranks.mean(trainer.train_step(batch).loss).item() for batch in batches]
    told = {
        "batches": [batch._asdict() for batch in batches],
        "losses": losses,
        "count": len(pictures),
        "fingerprint": pictures.fingerprint,
    }
    torch.save(told, folder / f"{host}.pt")


def run_job(folder, host):
    """The whole training as the seam starts it; leave how it ended, and what it reported."""
    folders = {name: folder / host / name for name in ("model", "output", "checkpoints")}
    channels = {name: folder / host / name for name in ("train", "validation")}
    numbers = {}
    for path in folders.values():
        path.mkdir(parents=True)
    try:
        train(
            replace(CONFIG, epochs=1),
            channels=channels,
            model_dir=folders["model"],
            output_dir=folders["output"],
            checkpoint_dir=folders["checkpoints"],
            report=lambda name, value, step: numbers.update({name: value}),
            should_stop=lambda: False,
        )
        ending = "complete"
    except ValueError as error:
        ending = str(error)
    (folder / f"{host}.json").write_text(json.dumps({"ending": ending, "numbers": numbers}))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for _ in write_dataset(folder, count=8, width=64, height=64, seed=3, kind="objects"):
        pass
    return folder


def give(pictures, folder, images, normals=None):
    """What a host finds: those pictures, and the normals of others where `normals` says so."""
    for kind, indices in (("images", images), ("normals", images if normals is None else normals)):
        for index in indices:
            (file,) = (pictures / kind).glob(f"{index:06}.*")
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / kind)
    if images:
        shutil.copy(pictures / "dataset.json", folder)


JOBS = {
    # train of both hosts, validation of both, normals of train where they are of other pictures
    "same validation": ((range(5), ()), (range(5, 8),) * 2, None),
    "leader without": (((), range(5)), (range(5, 8),) * 2, None),
    "validation apart": ((range(5),) * 2, (range(5, 7), range(7, 8)), None),
    "validation on one": ((range(5),) * 2, (range(5, 7), ()), None),
    "in common": ((range(5), range(4, 8)), (range(2),) * 2, None),
    "truth elsewhere": ((range(4), range(4, 8)), (range(2),) * 2, (range(2, 6), range(4, 8))),
    "nowhere": (((), ()), (range(2),) * 2, None),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("runs")
    for case, hosts in CASES.items():
        for host, indices in enumerate(hosts):
            give(pictures, folder / case / str(host), indices)
    for case, (of_train, of_validation, normals) in JOBS.items():
        for host in (0, 1):
            base = folder / case / str(host)
            give(pictures, base / "train", of_train[host], normals and normals[host])
            give(pictures, base / "validation", of_validation[host])
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "container"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    code = ONE_OF_TWO.format(tests=str(Path(__file__).parent))
    two = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(folder)], env=environment)
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=180) for process in two] == [0, 0]
    return folder


def told(runs, case):
    return [torch.load(runs / case / f"{host}.pt") for host in (0, 1)]


def counted(batch):
    """The samples of a batch that count."""
    keep = batch["valid"].flatten(1).any(1)
    return {
        name: tuple(name for name, is_kept in zip(value, keep, strict=True) if is_kept)
        if isinstance(value, tuple)
        else value[keep]
        for name, value in batch.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_every_picture_of_every_host_counts_once_an_epoch(runs, case):
    hosts = told(runs, case)
    for epoch in range(EPOCHS):
        steps = slice(3 * epoch, 3 * epoch + 3)
        for host, indices in zip(hosts, CASES[case], strict=True):
            seen = Counter(name for batch in host["batches"][steps] for name in counted(batch)["names"])
            assert seen == {f"{index:06}": 1 for index in indices}
    assert [len(host["batches"]) for host in hosts] == [STEPS, STEPS]
    assert [host["count"] for host in hosts] == [sum(map(len, CASES[case]))] * 2


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_one_process_with_the_batches_of_both(runs, case):
    first, second = told(runs, case)
    assert first["losses"] == second["losses"]
    trainer = Trainer(CONFIG, {}, STEPS)
    for loss, *parts in zip(first["losses"], first["batches"], second["batches"], strict=True):
        parts = [counted(part) for part in parts]
        union = Batch(
            **{
                name: sum((part[name] for part in parts), ())
                if name == "names"
                else torch.cat([part[name] for part in parts])
                for name in Batch._fields
            }
        )
        # float32 sums in another order; the loss itself is about 1
        assert trainer.train_step(union).loss.item() == pytest.approx(loss, abs=2e-4)


def test_checkpoints_are_of_the_pictures_of_all_hosts_whichever_has_which(runs, pictures):
    all_of_one = TrainingPictures(pictures, Ranks()).fingerprint
    assert {host["fingerprint"] for host in told(runs, "5 and 3")} == {all_of_one}
    five = {host["fingerprint"] for case in ("5 and none", "none and 5") for host in told(runs, case)}
    assert len(five) == 1
    assert five != {all_of_one}


def test_a_host_with_fewer_spreads_them_over_the_epoch(runs):
    _, second = told(runs, "5 and 3")
    assert [len(counted(batch)["names"]) for batch in second["batches"]] == [1] * STEPS


@pytest.mark.parametrize("case", ["same validation", "leader without"])
def test_a_job_of_which_one_host_has_no_picture_is_complete(runs, case):
    first, second = (json.loads((runs / case / f"{host}.json").read_text()) for host in (0, 1))
    assert (first["ending"], second["ending"]) == ("complete", "complete")
    assert first["numbers"]["val_mean_angular_error"] < 90
    assert load_file(runs / case / "0" / "model" / "model.safetensors")
    assert not list((runs / case / "1" / "model").iterdir())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("validation apart", "'validation': the hosts were given different pictures"),
        ("validation on one", "'validation': the hosts were given different pictures"),
        ("in common", "'train': the hosts have some pictures in common, 000004 for one"),
        ("truth elsewhere", "'train': 2 of 4 pictures have no normals"),
        ("nowhere", "'train': no host was given a picture"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_all_with_the_cure(runs, case, reason):
    endings = [json.loads((runs / case / f"{host}.json").read_text())["ending"] for host in (0, 1)]
    assert reason in endings[0]
    assert "FullyReplicated" in endings[0] or case == "nowhere"
    if case != "nowhere":  # it names the folder
        assert endings[0] == endings[1]


def of_epoch(groups, batch_size):
    """For each step what each rank takes, as (group, picture)."""
    shares = [Share(groups, group, rank) for group, (_, ranks) in enumerate(groups) for rank in range(ranks)]
    steps = shares[0].steps_per_epoch(batch_size)
    return [
        [
            [
                (share.group, item)
                for item in share.own(share.batch(list(range(share.num_pictures)), place, batch_size))
            ]
            for share in shares
        ]
        for place in range(steps)
    ]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("groups", [((7, 2),), ((7, 2), (2, 1)), ((1, 1), (9, 3), (0, 2)), ((5, 1), (5, 1))])
def test_an_epoch_of_any_groups_holds_each_picture_once_and_no_batch_too_large(groups, batch_size):
    steps = of_epoch(groups, batch_size)
    taken = Counter(item for step in steps for part in step for item in part)
    assert taken == {(group, item): 1 for group, (count, _) in enumerate(groups) for item in range(count)}
    assert max(len(part) for step in steps for part in step) <= batch_size
    assert all(any(step) for step in steps)
