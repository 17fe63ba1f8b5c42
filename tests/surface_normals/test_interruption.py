"""The real model through the real `train` program: killed, stopped, resumed, and refused."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.artifact import load_artifact
from surface_normals.training.synthetic.dataset import write_dataset

ROOT = Path(__file__).resolve().parents[2]
HYPERPARAMETERS = {
    "size": "tiny",
    "epochs": "15",
    "batch_size": "2",
    "crop_height": "64",
    "crop_width": "64",
    "checkpoint_minutes": "0",  # one after each step
    "workers": "1",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=4, width=64, height=64, seed=3, kind="objects"):
        pass
    return folder


def prepare(base, pictures, **changes):
    shutil.copytree(pictures, base / "input/data/train")
    (base / "input/config").mkdir()
    (base / "input/config/hyperparameters.json").write_text(json.dumps(HYPERPARAMETERS | changes))
    return base


def start(base, **variables):
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "container"),
        "SAGEMAKER_BASE_DIR": str(base),
        "GPU_METRICS": "off",
        **variables,
    }
    with (base / "log").open("a") as log:
        return subprocess.Popen([ROOT / "container/train"], env=environment, stdout=log, stderr=log)


def log_of(base):
    return (base / "log").read_text()


def wait_for(base, text, since=0):
    deadline = time.monotonic() + 120
    while text not in log_of(base)[since:]:
        assert time.monotonic() < deadline, log_of(base)
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, pictures, kills):
    epochs = str(8 * kills)  # so that each kill finds steps left
    undisturbed = prepare(tmp_path / "undisturbed", pictures, epochs=epochs)
    assert start(undisturbed).wait(timeout=300) == 0
    killed = prepare(tmp_path / "killed", pictures, epochs=epochs)
    for moment in random.Random(7).sample(range(300), kills):
        since = len(log_of(killed)) if (killed / "log").exists() else 0
        process = start(killed)
        wait_for(killed, "checkpoint of step", since)  # the steps have begun; most of a step is saving
        time.sleep(moment / 1000)
        process.kill()  # the parent; the kernel then ends its rank
        process.wait()
    assert start(killed).wait(timeout=300) == 0, log_of(killed)
    assert log_of(killed).count("resumed from the checkpoint of step") == kills
    expected, got = (load_file(base / "model/model.safetensors") for base in (undisturbed, killed))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.slow
def test_a_network_in_parts_is_saved_resumed_measured_and_shipped_whole(tmp_path, pictures):
    base = prepare(tmp_path / "ml", pictures, sharding="full", epochs="6")
    shutil.copytree(pictures, base / "input/data/validation")
    two = {"PROCESSES_PER_HOST": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    process = start(base, **two)
    wait_for(base, "checkpoint of step")
    process.kill()
    process.wait()
    since = len(log_of(base))
    assert start(base, **two).wait(timeout=300) == 0, log_of(base)
    assert "resumed from the checkpoint of step" in log_of(base)[since:]
    assert log_of(base)[since:].count(" val_mean_angular_error=") >= 2
    network, description = load_artifact(base / "model")
    assert description["trained"]["step"] == 6
    assert 0 < description["validation"]["mean_angular_error"] < 90
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.fixture(scope="module")
def large_pictures(tmp_path_factory):
    """Twelve names of one picture so large that reading or measuring them takes seconds."""
    folder = tmp_path_factory.mktemp("large")
    for _ in write_dataset(folder, count=1, width=1600, height=1200, seed=3, kind="objects"):
        pass
    for kind in ("images", "normals"):
        (first,) = (folder / kind).iterdir()
        for index in range(1, 12):
            (folder / kind / f"{index:06d}{first.suffix}").hardlink_to(first)
    return folder


TWO_PROCESSES = {"PROCESSES_PER_HOST": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def stop(base, process):
    """The exit code, and the step of the model that was left; None where there is none."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=100)  # the grace
    files = sorted(path.name for path in (base / "model").iterdir())
    assert (base / "output/failure").exists() == (code != 0), log_of(base)
    if code:
        assert files == []
        return code, None
    assert files == ["model.json", "model.safetensors"]
    load_artifact(base / "model")
    return code, json.loads((base / "model/model.json").read_text())["trained"]["step"]


def newest(base):
    """The last step of which there is a checkpoint."""
    return max((int(path.stem[5:]) for path in (base / "checkpoints").glob("*.safetensors")), default=None)


def goes_on(base, step, **variables):
    """Whether another attempt takes up the training after `step`."""
    since = len(log_of(base))
    process = start(base, **variables)
    wait_for(base, f"resumed from the checkpoint of step {step}" if step else "starting at step 0", since)
    process.kill()
    process.wait()


def test_stopped_while_it_imports_there_is_no_model(tmp_path, pictures):
    base = prepare(tmp_path / "ml", pictures)
    process = start(base)
    wait_for(base, "hyperparameters of surface_normals")  # the rank starts
    time.sleep(0.3)
    assert stop(base, process) == (143, None)
    assert "stopped before the first step" in log_of(base)
    assert "checkpoint of step" not in log_of(base)
    goes_on(base, None)


def test_stopped_while_it_looks_at_the_pictures_there_is_no_model(tmp_path, large_pictures):
    base = prepare(tmp_path / "ml", large_pictures)
    process = start(base)
    wait_for(base, "looking at 12 of them")
    assert stop(base, process) == (143, None)
    assert "stopped before the first step" in log_of(base)
    assert "checkpoint of step" not in log_of(base)


@pytest.mark.parametrize("processes", [{}, TWO_PROCESSES])
def test_stopped_between_steps_it_leaves_a_checkpoint_and_a_model(tmp_path, pictures, processes):
    base = prepare(tmp_path / "ml", pictures, epochs="100000", checkpoint_minutes="60")
    process = start(base, **processes)
    wait_for(base, "train_loss=")
    code, step = stop(base, process)
    assert (code, newest(base)) == (0, step)
    goes_on(base, step, **processes)


@pytest.mark.parametrize("processes", [{}, TWO_PROCESSES])
def test_stopped_while_it_measures_it_leaves_a_checkpoint_and_a_model(
    tmp_path, pictures, large_pictures, processes
):
    base = prepare(tmp_path / "ml", pictures, epochs="100000", checkpoint_minutes="60")
    most = shutil.ignore_patterns(*(f"{index:06d}.*" for index in range(3, 12)))
    shutil.copytree(large_pictures, base / "input/data/validation", copy_function=os.link, ignore=most)
    process = start(base, **processes)
    wait_for(base, "train_loss=")  # of the first epoch, after which it measures
    code, step = stop(base, process)
    assert (code, newest(base)) == (0, step)
    assert step == (1 if processes else 2)
    assert "val_mean_angular_error" not in log_of(base)


def test_stopped_while_it_saves_it_leaves_a_checkpoint_and_a_model(tmp_path, pictures):
    base = prepare(tmp_path / "ml", pictures, epochs="100000")
    process = start(base)
    wait_for(base, "checkpoint of step 3 written")  # one after each step
    code, step = stop(base, process)
    assert (code, newest(base)) == (0, step)


def test_stopped_while_it_exports_it_leaves_the_finished_model(tmp_path, pictures):
    base = prepare(tmp_path / "ml", pictures, epochs="1", export="all")
    process = start(base)
    wait_for(base, "writing model.pt2")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 0
    assert not (base / "output/failure").exists()
    files = sorted(path.name for path in (base / "model").iterdir())
    assert files == ["export.json", "model.json", "model.safetensors"]
    assert (base / "output/data/report.html").is_file()
    load_artifact(base / "model")


def remove_a_normal_map(data):
    (data / "normals/000001.npy").unlink()


def damage_a_picture(data):
    path = data / "images/000001.png"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "named"), [(remove_a_normal_map, "000001.png"), (damage_a_picture, "000001.png")]
)
def test_unusable_data_end_the_job_with_one_line(tmp_path, pictures, damage, named):
    base = prepare(tmp_path / "ml", pictures)
    damage(base / "input/data/train")
    assert start(base).wait(timeout=100) == 1
    failure = (base / "output/failure").read_text()
    assert failure.startswith("ClientError: channel 'train'")
    assert named in failure.splitlines()[0]
    assert log_of(base).rstrip().splitlines()[-1].endswith(failure.splitlines()[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epcohs": "3"}, "epochs"),
        ({"epochs": "many"}, "epochs"),
        ({"batch_size": "0"}, "batch_size"),
        ({"size": "XL"}, "tiny, S"),
        ({"crop_height": "100"}, "crop_height"),
        ({"sharding": "full", "compile": "true"}, "compile=true and sharding=full"),
        ({"batch_size": "auto"}, "there is no GPU: name a number"),
    ],
)
def test_bad_hyperparameters_end_the_job_before_any_work(tmp_path, pictures, changes, named):
    base = prepare(tmp_path / "ml", pictures, **changes)
    assert start(base).wait(timeout=30) == 1
    first_line = (base / "output/failure").read_text().splitlines()[0]
    assert first_line.startswith("ClientError")
    assert named in first_line
    assert "parameters on" not in log_of(base)
