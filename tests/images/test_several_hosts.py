"""Two containers of the training image on a network of their own, as two hosts of one job."""

import json
import re
import time
import uuid

import pytest

import emf_validator
import nvml
from pack_dataset import pack
from surface_normals.artifact import load_artifact
from surface_normals.training.dataset import PictureDataset

from .conftest import HYPERPARAMETERS

pytestmark = [pytest.mark.docker, pytest.mark.slow]

COLLECTIVE_TIMEOUT_SECONDS = 60
A_MOMENT_SECONDS = 60  # until all processes have ended, on a busy machine


@pytest.fixture
def network(make_network):
    return make_network(internal=True)


@pytest.fixture
def hosts(containers, network, make_tree, train_image, tmp_path):
    """`start(index, epochs)`: the container of one of two hosts, which has a GPU to look at, and its tree.

    Five pictures in tar files: ShardedByS3Key has given three to the first host and two to the other.
    """
    names = [f"algo-{number}-{uuid.uuid4().hex[:5]}" for number in (1, 2)]
    driver = nvml.build(tmp_path / "driver")
    nvml.turn(driver, {"gpus": 1, "0.utilization": 90})

    def start(index, epochs, collective_timeout_seconds=600):
        tree = make_tree()
        pictures = make_tree()
        pictures.add_pictures("train", 3 - index, seed=1 + index)
        source = pictures.root / "input/data/train"
        for file in [*source.glob("*/*.*")]:  # no two hosts have a picture of the same name
            file.rename(file.with_stem(f"{file.stem}-of-host-{index + 1}"))
        pack(PictureDataset("train", source), tree.root / "input/data/train", shard_bytes=1)
        tree.add_pictures("validation", 2, seed=3)
        tree.set_hyperparameters(**HYPERPARAMETERS | {"epochs": epochs, "precision": "float16"})
        tree.configure(
            "resourceconfig", {"current_host": names[index], "hosts": names, "network_interface_name": "eth0"}
        )
        tree.configure(
            "inputdataconfig",
            {
                "train": {"TrainingInputMode": "File", "S3DistributionType": "ShardedByS3Key"},
                "validation": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"},
            },
        )
        container = containers.start(
            train_image,
            "train",
            name=names[index],
            hostname="aws",  # SageMaker's hosts may all call themselves so
            network=network.name,
            volumes=tree.volumes | {str(driver): {"bind": "/driver", "mode": "ro"}},
            environment={
                "COLLECTIVE_TIMEOUT_SECONDS": str(collective_timeout_seconds),
                "LD_LIBRARY_PATH": "/driver",
            },
        )
        return container, tree

    return start


def metrics(stdout):
    """Names and hosts of the metrics for CloudWatch that are told by host."""
    lines = [line.encode() for line in stdout.splitlines(keepends=True) if line.startswith('{"_aws"')]
    data = [datum for line in lines for datum in emf_validator.read(line)]
    return {(datum.name, datum.dimensions["Host"]) for datum in data if "Host" in datum.dimensions}


@pytest.mark.parametrize(
    ("first", "seconds"),
    [(0, 20), pytest.param(0, 60, marks=pytest.mark.long), pytest.param(1, 60, marks=pytest.mark.long)],
)
def test_they_train_together_though_one_comes_late(hosts, containers, pytestconfig, first, seconds):
    started = {first: hosts(first, "2")}
    time.sleep(seconds)
    started[1 - first] = hosts(1 - first, "2")
    (leader, leaders_tree), (other, others_tree) = started[0], started[1]
    ended, others_end = containers.end_of(leader, 300), containers.end_of(other, 60)
    assert ended.exit_code == 0, ended.stderr
    assert others_end.exit_code == 0, others_end.stderr

    # One model, of all five pictures, two a host: two steps an epoch.
    assert "the hosts have different pictures: 3 on 1 process(es), 2 on 1 process(es)" in ended.stderr
    assert load_artifact(leaders_tree.root / "model")[1]["trained"]["step"] == 4
    assert list((others_tree.root / "model").iterdir()) == []

    # One set of numbers: the leader's.
    path = pytestconfig.rootpath / "container/surface_normals/metric_definitions.json"
    definitions = {entry["Name"]: re.compile(entry["Regex"]) for entry in json.loads(path.read_text())}
    found = {name for name, regex in definitions.items() if regex.search(ended.stdout + ended.stderr)}
    assert definitions.keys() - found == {"gpu_memory_mib"}  # there was none to train on
    assert not any(regex.search(others_end.stdout + others_end.stderr) for regex in definitions.values())

    # Each host tells of its own GPU, and only the leader of the work.
    leaders_name, others_name = leader.name, other.name
    assert {("GpuUtilization", leaders_name), ("SamplesPerSecond", leaders_name)} <= metrics(ended.stdout)
    assert ("GpuUtilization", others_name) in metrics(others_end.stdout)
    assert "SamplesPerSecond" not in {name for name, _ in metrics(others_end.stdout)}


def killed(container, network):
    container.kill()


def unplugged(container, network):
    network.disconnect(container, force=True)


@pytest.mark.parametrize(
    ("lost", "how"),
    [(1, killed), (0, killed), pytest.param(1, unplugged, marks=pytest.mark.long)],
    ids=["other-killed", "leader-killed", "other-unplugged"],
)
def test_a_lost_host_ends_the_other_with_a_reason(hosts, containers, network, lost, how):
    started = [hosts(index, "100000", COLLECTIVE_TIMEOUT_SECONDS) for index in (0, 1)]
    leader, _ = started[0]
    containers.wait_until(lambda: b"train_loss=" in leader.logs(), leader, 300, "it reports its loss")
    how(started[lost][0], network)
    container, tree = started[1 - lost]
    ended = containers.end_of(container, COLLECTIVE_TIMEOUT_SECONDS + A_MOMENT_SECONDS)
    assert ended.exit_code == 1
    assert "another process of the job ended or stopped answering" in tree.failure
