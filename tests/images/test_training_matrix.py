"""The training image under what a host can do to a job: little memory, full disks, bad input, signals at any moment.

The input is mounted read-only in all of it, and of a job that is started again only the checkpoints remain.
"""

import os
import random
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.artifact import load_artifact

from .conftest import HYPERPARAMETERS

pytestmark = [pytest.mark.docker, pytest.mark.slow]

DEADLINE_SECONDS = 300  # for what takes seconds on a machine with nothing else to do
SIGKILL_AFTER_SECONDS = 120  # as SageMaker; the program itself ends training after 100
COPIES = 1000


@pytest.fixture(scope="module")
def channels(make_tree):
    """`train`, a small `validation`, and `many`: the same pictures under so many names that reading takes seconds."""
    tree = make_tree()
    tree.add_pictures("train", 4)
    tree.add_pictures("validation", 2, seed=2)
    folder = tree.root / "input/data"
    shutil.copytree(folder / "validation", folder / "many")
    for file in [*(folder / "many").glob("*/*.*")]:
        for copy in range(COPIES):
            os.link(file, file.with_stem(f"{file.stem}-{copy}"))
    return folder


@pytest.fixture
def checkpoints(make_tree):
    """The folder that is there again in the next attempt."""
    folder = make_tree().root / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def attempt(containers, make_tree, channels, checkpoints, train_image):
    """`attempt(**hyperparameters)`: a container of the job and its new tree."""

    def start(*, validation=None, command="train", options=None, **hyperparameters):
        tree = make_tree()
        tree.set_hyperparameters(**HYPERPARAMETERS | hyperparameters)
        given = {"train": channels / "train"} | ({"validation": channels / validation} if validation else {})
        volumes = {
            str(folder): {"bind": f"/opt/ml/input/data/{name}", "mode": "ro"}
            for name, folder in given.items()
        }
        volumes[str(tree.root / "input/config")] = {"bind": "/opt/ml/input/config", "mode": "ro"}
        options = options or {}
        if "tmpfs" not in options:
            volumes[str(checkpoints)] = {"bind": "/opt/ml/checkpoints", "mode": "rw"}
        container = containers.start(
            train_image,
            command,
            volumes=tree.volumes | volumes,
            environment={"GPU_METRICS": "off"},
            **options,
        )
        return container, tree

    return start


def log_of(container):
    return container.logs(stdout=False, stderr=True).decode()


def newest(checkpoints):
    """The step of the newest checkpoint; None where there is none."""
    steps = [int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*.safetensors")]
    return max(steps, default=None)


def test_the_default_shared_memory_is_enough_for_fewer_workers(containers, attempt):
    """Docker's is 64 MB. And no word after the image's name means: train."""
    crop = {"crop_height": "512", "crop_width": "512", "batch_size": "4"}
    container, tree = attempt(command=None, options={"shm_size": "64m"}, workers="2", epochs="2", **crop)
    ended = containers.end_of(container, DEADLINE_SECONDS)

    assert ended.exit_code == 0, ended.stderr
    assert re.search(
        r"/dev/shm has 6\d MB free, workers=2 need \d+ MB: 1 will read; .*--shm-size", ended.stderr
    )
    load_artifact(tree.root / "model")


def test_without_shared_memory_the_training_process_reads(containers, attempt):
    """The two batches under way are larger than it is: workers would end the job with a bus error."""
    crop = {"crop_height": "512", "crop_width": "512", "batch_size": "4"}
    container, tree = attempt(options={"shm_size": "16m"}, workers="2", epochs="2", **crop)
    ended = containers.end_of(container, DEADLINE_SECONDS)

    assert ended.exit_code == 0, ended.stderr
    assert "pictures are read in the training process" in ended.stderr
    load_artifact(tree.root / "model")


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"epcohs": "3"}, "epcohs.*epochs"),
        ({"epochs": "many"}, "epochs.*many"),
        ({"batch_size": "0"}, "batch_size.*1"),
        ({"crop_height": "100"}, "crop_height=100"),
        ({"loss": "é" * 2500}, "loss.*angmf"),  # SageMaker takes no longer one
    ],
)
def test_a_bad_hyperparameter_is_named_within_seconds(containers, attempt, hyperparameters, named):
    began = time.monotonic()
    container, tree = attempt(**hyperparameters)
    ended = containers.end_of(container, 10)

    assert time.monotonic() - began < 10
    assert ended.exit_code == 1
    assert re.match(f"ClientError: .*{named}", tree.failure)
    assert tree.failure.splitlines()[0] in ended.stderr.splitlines()[-1]
    assert list((tree.root / "model").iterdir()) == []


def test_an_empty_channel_is_named(containers, make_tree, train_image):
    tree = make_tree()
    (tree.root / "input/data/train").mkdir(parents=True)
    ended = containers.run(train_image, "train", volumes=tree.volumes)

    assert ended.exit_code == 1
    assert re.match(
        r"ClientError: channel 'train' is empty: looked in /opt/ml/input/data/train", tree.failure
    )


def test_a_missing_channel_is_named(containers, make_tree, train_image):
    tree = make_tree()
    tree.add_pictures("training", 2)  # as one calls it who has not read that it must be `train`
    ended = containers.run(train_image, "train", volumes=tree.volumes, deadline_seconds=DEADLINE_SECONDS)

    assert ended.exit_code == 1
    assert tree.failure.startswith("ClientError: channel 'train' is missing; the job has training")


def test_a_damaged_picture_is_named_however_long_its_name(containers, make_tree, train_image):
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(**HYPERPARAMETERS)
    images = tree.root / "input/data/train/images"
    name = "/".join(["x" * 190] * 3 + ["damaged"])
    for folder, ending in (("images", ".png"), ("normals", ".npy")):
        file = images.with_name(folder) / f"{name}{ending}"
        file.parent.mkdir(parents=True)
        shutil.copy(images.with_name(folder) / f"000000{ending}", file)
    with (images / f"{name}.png").open("r+b") as file:
        file.truncate(60)
    ended = containers.run(train_image, "train", volumes=tree.volumes, deadline_seconds=DEADLINE_SECONDS)

    assert ended.exit_code == 1
    assert tree.failure.startswith("ClientError: channel 'train'")
    assert f"{name}.png" in tree.failure.splitlines()[0]


def test_too_little_memory_is_said(containers, attempt):
    """The kernel ends the rank in its first step."""
    limit = {"mem_limit": "700m", "memswap_limit": "700m"}
    container, tree = attempt(options=limit, batch_size="4", crop_height="2048", crop_width="2048")
    ended = containers.end_of(container, DEADLINE_SECONDS)

    assert ended.exit_code == 1
    assert "pictures, 0 validation pictures" in ended.stderr
    assert "killed by signal 9 (SIGKILL); likely out of memory" in tree.failure
    assert "limit 0.7 GiB, the kernel's out-of-memory killer ended " in tree.failure


@pytest.mark.parametrize(
    ("folder", "size"),
    [
        ("checkpoints", "12m"),  # the first checkpoint has room, the next are written while training goes on
        ("model", "1m"),
    ],
)
def test_a_full_disk_is_said_with_its_cure(containers, attempt, folder, size):
    disk = {"tmpfs": {f"/opt/ml/{folder}": f"size={size}"}}
    container, tree = attempt(options=disk, checkpoint_minutes="0", epochs="20")
    ended = containers.end_of(container, DEADLINE_SECONDS)

    assert ended.exit_code == 1
    assert "checkpoint of step" in ended.stderr
    assert "No space left on device" in tree.failure.splitlines()[0]
    assert "the disk is full: raise the job's VolumeSizeInGB" in tree.failure
    assert "No space left on device" in ended.stderr.splitlines()[-1]


def stop_when(containers, container, begun, what):
    """`docker stop` as soon as `begun()`. What the log had told before the signal, and the end."""
    containers.wait_until(begun, container, DEADLINE_SECONDS, what)
    container.stop(timeout=SIGKILL_AFTER_SECONDS)
    ended = containers.end_of(container, 10)
    before, asked, _ = ended.stderr.partition("SIGTERM: training is asked to stop")
    assert asked, ended.stderr
    return before, ended


def assert_ended_well(ended, tree):
    """With a model that can be used, or with the exit code and the reason of none."""
    if ended.exit_code == 0:
        load_artifact(tree.root / "model")
        assert not (tree.root / "output/failure").exists()
    else:
        assert ended.exit_code == 143, ended.stderr
        assert tree.failure.startswith("Stopped: by SIGTERM")
        assert list((tree.root / "model").iterdir()) == []


def test_a_stop_in_any_phase_ends_well_and_the_next_attempt_goes_on(containers, attempt, checkpoints):
    """One job, stopped in every phase: each attempt resumes what the one before has left."""

    def stopped(begun, done, **options):
        last = newest(checkpoints)
        container, tree = attempt(epochs="100000", **options)
        before, ended = stop_when(containers, container, lambda: begun in log_of(container), begun)
        assert begun in before
        assert done not in before
        assert_ended_well(ended, tree)
        if last is not None and "parameters on" in before:
            assert f"resumed from the checkpoint of step {last} " in before
        return ended

    # Import: the parent has read everything, and the rank loads torch.
    stopped("hyperparameters of surface_normals", "augment=", validation="many")
    # Data: constant answers are measured on every validation picture.
    stopped("augment=", "to beat:", validation="many")
    # Steps, of which nobody else tells anything: there is no validation channel.
    stopped("progress: step ", "training complete")
    assert newest(checkpoints) > 0
    # Validation, at the end of the first epoch.
    ended = stopped("progress: step ", " written", validation="many")
    assert "val_mean_angular_error" not in ended.stdout

    last = newest(checkpoints)
    container, tree = attempt(epochs=str(last // 2 + 2), validation="validation")
    ended = containers.end_of(container, DEADLINE_SECONDS)
    assert ended.exit_code == 0, ended.stderr
    assert f"resumed from the checkpoint of step {last} " in ended.stderr
    assert load_artifact(tree.root / "model")[1]["trained"]["step"] == 2 * (last // 2 + 2)


def test_a_stop_while_a_checkpoint_is_written_ends_well_and_the_next_attempt_goes_on(
    containers, attempt, checkpoints
):
    larger = {"size": "S", "encoder_weights": "random", "checkpoint_minutes": "0"}  # 140 MB: a second or so

    def writes():
        return (checkpoints / ".step-00000001.safetensors.partial").exists()

    container, tree = attempt(**larger, epochs="100000")
    before, ended = stop_when(containers, container, writes, "a checkpoint is being written")
    assert "checkpoint of step 1 written" not in before
    assert_ended_well(ended, tree)

    last = newest(checkpoints)
    container, tree = attempt(**larger, epochs=str(last // 2 + 1))
    ended = containers.end_of(container, DEADLINE_SECONDS)
    assert ended.exit_code == 0, ended.stderr
    assert f"resumed from the checkpoint of step {last} " in ended.stderr


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_any_moment_it_ends_with_the_same_bits(containers, attempt, checkpoints, kills):
    job = {"epochs": str(15 * kills), "checkpoint_minutes": "0"}  # so that each kill finds steps left
    for moment in random.Random(7).sample(range(300), kills):
        container, _ = attempt(**job)
        containers.wait_until(
            lambda container=container: "checkpoint of step" in log_of(container),
            container,
            DEADLINE_SECONDS,
            "it saves",
        )
        time.sleep(moment / 1000)
        container.kill()
        containers.end_of(container, 30)
        last = newest(checkpoints)
    container, tree = attempt(**job)
    ended = containers.end_of(container, 600)
    assert ended.exit_code == 0, ended.stderr
    step = int(re.search(r"resumed from the checkpoint of step (\d+) ", ended.stderr)[1])
    assert step <= last  # the newest one may be damaged
    undisturbed, expected = attempt(**job, options={"tmpfs": {"/opt/ml/checkpoints": ""}})
    assert containers.end_of(undisturbed, 600).exit_code == 0
    weights, whole = (load_file(tree.root / "model/model.safetensors") for tree in (tree, expected))
    assert all(torch.equal(whole[name], weights[name]) for name in whole)
