"""An owner's model in the images: a folder more, MODEL_PACKAGE, and nothing else."""

import json
from pathlib import Path

import pytest
import requests

pytestmark = pytest.mark.docker

PACKAGE = Path(__file__).resolve().parents[1] / "fakes/doubling"
OWN_CODE = {str(PACKAGE): {"bind": "/opt/program/doubling", "mode": "ro"}}
OWN_NAME = {"MODEL_PACKAGE": "doubling"}


def test_it_trains_and_serves(containers, make_tree, train_image, serve_image):
    tree = make_tree()
    (tree.root / "input/data/train").mkdir(parents=True)
    (tree.root / "input/data/train/numbers.csv").write_text("1,2\n")
    tree.set_hyperparameters(factor="3")
    ended = containers.run(
        train_image, "train", environment=OWN_NAME, volumes=OWN_CODE | tree.volumes, network_mode="none"
    )
    assert ended.exit_code == 0, ended.stderr
    assert "; train_loss=1;" in ended.stdout

    model = {str(tree.root / "model"): {"bind": "/opt/ml/model", "mode": "ro"}}
    _, url = containers.server(serve_image, environment=OWN_NAME, volumes=OWN_CODE | model)
    answer = requests.post(f"{url}/invocations", json=[1, 2.5], timeout=30)

    assert (answer.status_code, json.loads(answer.content)) == (200, [3, 7.5])


def test_a_model_package_that_is_not_there_is_named(containers, make_tree, train_image):
    tree = make_tree()
    ended = containers.run(train_image, "train", environment={"MODEL_PACKAGE": "mine"}, volumes=tree.volumes)

    assert ended.exit_code == 1
    assert "'mine'" in tree.failure.splitlines()[0]
