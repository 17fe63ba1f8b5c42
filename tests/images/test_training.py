"""The training image on pictures: what a complete job leaves."""

import json
import re

import pytest

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.docker


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


def test_an_output_folder_that_cannot_be_written_is_said(containers, make_tree, train_image):
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(**HYPERPARAMETERS)
    read_only = {str(tree.root): {"bind": "/opt/ml", "mode": "ro"}}
    ended = containers.run(train_image, "train", volumes=read_only)

    assert ended.exit_code == 1
    assert "cannot write to /opt/ml" in ended.stderr.splitlines()[-1]
