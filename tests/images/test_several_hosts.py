"""Two containers of the training image on a network of their own, as two hosts of one job."""

import json
import re
import time
import uuid

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow]

HYPERPARAMETERS = {
    "size": "tiny", "batch_size": "2", "crop_height": "64", "crop_width": "64", "workers": "0",
}  # fmt: skip


@pytest.fixture
def network(make_network):
    return make_network(internal=True)


@pytest.fixture
def hosts(containers, network, make_tree, train_image):
    """`start(index, epochs)`: the container of one of two hosts, and its tree."""
    names = [f"algo-{number}-{uuid.uuid4().hex[:5]}" for number in (1, 2)]

    def start(index, epochs):
        tree = make_tree()
        tree.add_pictures("train", 5)
        tree.add_pictures("validation", 2, seed=2)
        tree.set_hyperparameters(**HYPERPARAMETERS, epochs=epochs)
        resources = {"current_host": names[index], "hosts": names, "network_interface_name": "eth0"}
        (tree.root / "input/config/resourceconfig.json").write_text(json.dumps(resources))
        container = containers.start(
            train_image,
            "train",
            name=names[index],
            hostname="aws",  # SageMaker's hosts may all call themselves so
            network=network.name,
            volumes=tree.volumes,
            environment={"COLLECTIVE_TIMEOUT_SECONDS": "20", "GPU_METRICS": "off"},
        )
        return container, tree

    return start


def test_they_train_together_though_one_comes_late(hosts, containers):
    leader, leaders_tree = hosts(0, "2")
    time.sleep(20)
    other, others_tree = hosts(1, "2")
    ended, others_end = containers.end_of(leader, 180), containers.end_of(other, 60)
    assert ended.exit_code == 0, ended.stderr
    assert others_end.exit_code == 0, others_end.stderr
    assert re.search(r"; val_mean_angular_error=[-+.0-9e]+;", ended.stdout)
    assert "train_loss" not in others_end.stdout
    assert (leaders_tree.root / "model/model.safetensors").is_file()
    assert list((others_tree.root / "model").iterdir()) == []
    # Five pictures, two a host: two steps an epoch.
    assert json.loads((leaders_tree.root / "model/model.json").read_text())["trained"]["step"] == 4


def test_a_killed_host_ends_the_other_with_a_reason(hosts, containers):
    leader, tree = hosts(0, "100000")
    other, _ = hosts(1, "100000")
    containers.wait_until(lambda: b"train_loss=" in leader.logs(), leader, 180, "it reports its loss")
    other.kill()
    ended = containers.end_of(leader, 60)
    assert ended.exit_code == 1
    assert "another process of the job ended or stopped answering" in tree.failure
