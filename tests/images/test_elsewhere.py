"""The training image outside SageMaker: the README's jobs of AWS Batch, ECS and Kubernetes, with moto as S3."""

import json
import re
import tarfile
import uuid
from pathlib import Path

import boto3
import pytest
import requests
import yaml
from moto.server import ThreadedMotoServer

from surface_normals.training.synthetic.dataset import write_dataset

pytestmark = [pytest.mark.docker, pytest.mark.slow]

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
[PROPERTIES] = re.findall(r"AWS Batch, in `containerProperties`.*?```json\n(.*?)```", README, re.DOTALL)
[JOB] = re.findall(
    r"^Kubernetes, with the data on a volume.*?```yaml\n(.*?)```", README, re.DOTALL | re.MULTILINE
)
SMALL = {"size": "tiny", "epochs": 2, "batch_size": 2, "crop_height": 64, "crop_width": 64, "workers": 0}
BUCKET = "my-bucket"


@pytest.fixture
def network(make_network):
    return make_network(internal=False)  # S3 is on this machine


@pytest.fixture
def s3(tmp_path):
    """A client of an S3 that containers reach too, with the README's bucket and its pictures."""
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=0)
    server.start()
    port = server.get_host_and_port()[1]
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    client.port = port
    client.create_bucket(Bucket=BUCKET)
    for _ in write_dataset(tmp_path / "train", count=5, width=64, height=64, seed=1):
        pass
    for path in (tmp_path / "train").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"normals/train/{path.relative_to(tmp_path / 'train')}")
    yield client
    requests.post(
        f"http://127.0.0.1:{port}/moto-api/reset", timeout=10
    )  # else the next test goes on from here
    server.stop()


@pytest.fixture
def node(containers, network, s3, train_image):
    """`start(**variables)`: a container with exactly what the README's job definition gives it."""
    job = json.loads(PROPERTIES)
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    of_this_test = {
        "HYPERPARAMETERS": json.dumps(SMALL),
        "AWS_ENDPOINT_URL": f"http://{gateway}:{s3.port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def start(**variables):
        told = {entry["name"]: entry["value"] for entry in job["environment"]}
        assert told.keys() >= {"S3_CHANNELS", "S3_OUTPUT", "S3_CHECKPOINTS", "STOP_GRACE_SECONDS"}
        return containers.start(
            train_image,
            job["command"],
            network=network.name,
            shm_size=f"{job['linuxParameters']['sharedMemorySize']}m",
            environment={**told, **of_this_test, **variables},
        )

    return start


def stored(s3):
    return {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}


def test_one_node_fetches_trains_and_sends(node, containers, s3):
    ended = containers.end_of(node(), 600)
    assert ended.exit_code == 0, ended.stderr
    assert "files fetched from s3://my-bucket/normals/train" in ended.stdout + ended.stderr
    model = s3.get_object(Bucket=BUCKET, Key="normals/models/job-1/model.tar.gz")["Body"]
    with tarfile.open(fileobj=model, mode="r|gz") as archive:  # as `deploy` and an endpoint take it
        assert {"./model.safetensors", "./model.json"} <= {member.name for member in archive}
    assert any(key.startswith("normals/models/job-1/output/data/") for key in stored(s3))
    assert any(key.startswith("normals/checkpoints/job-1/") for key in stored(s3))


def test_the_nodes_of_a_job_train_together(node, containers, s3):
    main = node(AWS_BATCH_JOB_NUM_NODES="2", AWS_BATCH_JOB_MAIN_NODE_INDEX="0", AWS_BATCH_JOB_NODE_INDEX="0")
    main.reload()
    [connected] = main.attrs["NetworkSettings"]["Networks"].values()
    other = node(
        AWS_BATCH_JOB_NUM_NODES="2",
        AWS_BATCH_JOB_MAIN_NODE_INDEX="0",
        AWS_BATCH_JOB_NODE_INDEX="1",
        AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS=connected["IPAddress"],
    )
    ended, others_end = containers.end_of(main, 600), containers.end_of(other, 120)
    assert ended.exit_code == 0, ended.stderr
    assert others_end.exit_code == 0, others_end.stderr
    assert "train_loss" in ended.stdout
    assert "train_loss" not in others_end.stdout
    body = s3.get_object(Bucket=BUCKET, Key="normals/models/job-1/model.tar.gz")["Body"]
    with tarfile.open(fileobj=body, mode="r|gz") as archive:
        [model] = [
            json.load(archive.extractfile(member)) for member in archive if member.name == "./model.json"
        ]
    # Five pictures, two a node: two steps an epoch.
    assert model["trained"]["step"] == 4


def test_a_task_of_ecs_that_is_stopped_leaves_its_model(node, containers, s3):
    """SIGTERM to process 1, SIGKILL after the README's stopTimeout: this machine may be busy."""
    container = node(HYPERPARAMETERS=json.dumps({**SMALL, "epochs": 10_000}), STOP_GRACE_SECONDS="100")
    containers.wait_until(lambda: b"train_loss" in container.logs(), container, 600, "training has begun")
    container.stop(timeout=120)
    ended = containers.end_of(container, 30)
    assert ended.exit_code == 0, ended.stderr  # a kill would be 137
    assert "SIGTERM: training is asked to stop within 100 s" in ended.stderr
    assert "normals/models/job-1/model.tar.gz" in stored(s3)
    assert any(key.startswith("normals/checkpoints/job-1/") for key in stored(s3))


@pytest.fixture
def pod(containers, make_network, make_tree, train_image):
    """`start(**variables)`: a container as the README's Job of Kubernetes has it, on a volume of its own."""
    network = make_network(internal=True)
    spec = yaml.safe_load(JOB)["spec"]["template"]["spec"]
    [told] = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in told["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory"}
    assert "persistentVolumeClaim" in mounts["/opt/ml"]

    def start(name=None, **variables):
        tree = make_tree()
        tree.add_pictures("train", 5)
        tree.add_pictures("validation", 2, seed=2)
        tree.set_hyperparameters(**SMALL)
        container = containers.start(
            train_image,
            told["args"],
            name=name,
            network=network.name,
            volumes=tree.volumes,
            shm_size="1g",
            environment={"COLLECTIVE_TIMEOUT_SECONDS": "60", **variables},
        )
        return container, tree

    return start


def test_a_job_of_kubernetes_trains_on_its_volume(pod, containers):
    container, tree = pod(JOB_COMPLETION_INDEX="0")
    ended = containers.end_of(container, 600)
    assert ended.exit_code == 0, ended.stderr
    assert (tree.root / "model/model.safetensors").is_file()


def test_the_pods_of_a_job_train_together(pod, containers):
    """As PyTorchJob tells them, or an indexed Job with two variables of its own."""
    main = f"job-0-{uuid.uuid4().hex[:5]}"
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": main, "MASTER_PORT": "23456"}
    first, tree = pod(main, **told, RANK="0")
    second, seconds_tree = pod(**told, JOB_COMPLETION_INDEX="1")
    ended, seconds_end = containers.end_of(first, 600), containers.end_of(second, 120)
    assert ended.exit_code == 0, ended.stderr
    assert seconds_end.exit_code == 0, seconds_end.stderr
    assert list((seconds_tree.root / "model").iterdir()) == []
    # Five pictures, two a pod: two steps an epoch.
    assert json.loads((tree.root / "model/model.json").read_text())["trained"]["step"] == 4
