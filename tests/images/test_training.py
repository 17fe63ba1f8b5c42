"""The training image on pictures: complete, refused, stopped."""

import hashlib
import json
import re

import pytest

pytestmark = pytest.mark.docker

HYPERPARAMETERS = {
    "size": "tiny", "batch_size": "2", "crop_height": "64", "crop_width": "64", "workers": "0", "epochs": "1",
}  # fmt: skip


def test_a_job_without_a_network_leaves_a_model_and_its_metrics(trained):
    tree, ended = trained

    assert ended.exit_code == 0, ended.stderr
    assert sorted(path.name for path in (tree.root / "model").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    assert re.search(r"; train_loss=[-+.0-9e]+;", ended.stdout)
    assert re.search(r"; val_mean_angular_error=[-+.0-9e]+;", ended.stdout)
    assert json.loads((tree.root / "output/data/metrics.json").read_text())["mean_angular_error"] < 120
    assert not (tree.root / "output/failure").exists()


def test_the_model_says_which_code_trained_it(trained, engine, train_image):
    tree, _ = trained
    facts = json.loads((tree.root / "model/model.json").read_text())
    revision = engine.images.get(train_image).labels["org.opencontainers.image.revision"]

    assert re.search(rf'"revision": {json.dumps(revision or None)}', json.dumps(facts))


def test_a_misspelt_hyperparameter_is_named_in_the_failure_file(containers, make_tree, train_image):
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(**HYPERPARAMETERS, epcohs="3")
    ended = containers.run(train_image, "train", volumes=tree.volumes)

    assert ended.exit_code == 1
    assert re.match(r"ClientError: .*epcohs.*epochs", tree.failure)
    assert "epcohs" in ended.stderr.splitlines()[-1]
    assert list((tree.root / "model").iterdir()) == []


def test_an_empty_channel_is_named_in_the_failure_file(containers, make_tree, train_image):
    tree = make_tree()
    (tree.root / "input/data/train").mkdir(parents=True)
    ended = containers.run(train_image, "train", volumes=tree.volumes)

    assert ended.exit_code == 1
    assert re.match(r"ClientError: .*train", tree.failure)


def test_an_output_folder_that_cannot_be_written_is_said(containers, make_tree, train_image):
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(**HYPERPARAMETERS)
    read_only = {str(tree.root): {"bind": "/opt/ml", "mode": "ro"}}
    ended = containers.run(train_image, "train", volumes=read_only)

    assert ended.exit_code == 1
    assert "cannot write to /opt/ml" in ended.stderr.splitlines()[-1]


def test_docker_stop_leaves_a_checkpoint_and_a_model(containers, make_tree, train_image):
    """StopTrainingJob: SIGTERM to process 1, and 120 s later SIGKILL."""
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(**HYPERPARAMETERS | {"epochs": "100000"})
    container = containers.start(train_image, "train", volumes=tree.volumes)

    def trains():
        return b"train_loss=" in container.logs(stdout=True, stderr=False)

    containers.wait_until(trains, container, 120, "it reports its loss")
    container.stop(timeout=120)
    ended = containers.end_of(container, 10)

    assert ended.exit_code == 0, ended.stderr
    assert (tree.root / "model/model.safetensors").stat().st_size > 100_000
    checkpoint = max((tree.root / "checkpoints").glob("*.safetensors"))  # the one of the stop
    checksum = checkpoint.with_suffix(".sha256").read_text()
    assert checksum == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


def test_the_same_job_again_resumes(containers, trained, train_image):
    """What SageMaker does after a spot interruption: the same folders, a new container."""
    tree, _ = trained
    tree.set_hyperparameters(**HYPERPARAMETERS | {"epochs": "2"})
    ended = containers.run(train_image, "train", volumes=tree.volumes)

    assert ended.exit_code == 0, ended.stderr
    assert re.search(r"(?i)resumed from .*step", ended.stderr)
