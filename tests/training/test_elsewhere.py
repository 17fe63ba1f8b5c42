"""A training job outside SageMaker, as a process whose S3 is moto's server."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.validate import ParamValidator
from moto.server import ThreadedMotoServer

from training.elsewhere import resources
from training.environment import read_elsewhere, read_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def s3_address():
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_address):
    client = boto3.client(
        "s3",
        endpoint_url=s3_address,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="bucket")
    yield client
    for item in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=item["Key"])


@pytest.fixture
def start(s3_address, tmp_path):
    def start(**variables):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "container", ROOT / "tests/fakes"))),
            "SAGEMAKER_BASE_DIR": str(tmp_path),
            "MODEL_PACKAGE": "doubling",
            "GPU_METRICS": "off",
            "AWS_ENDPOINT_URL": s3_address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "training.elsewhere"],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def keys(s3):
    return {item["Key"] for item in s3.list_objects_v2(Bucket="bucket").get("Contents", [])}


def test_it_fetches_trains_and_sends(s3, start):
    s3.put_object(Bucket="bucket", Key="data/train/deep/a.txt", Body=b"x")
    s3.put_object(Bucket="bucket", Key="data/train-old/b.txt", Body=b"x")
    process = start(
        S3_CHANNELS='{"train": "s3://bucket/data/train"}',
        HYPERPARAMETERS='{"factor": 3}',
        S3_OUTPUT="s3://bucket/out/",
    )
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert "channels: train (1 file)" in printed
    assert {key for key in keys(s3) if key.startswith("out/") and "output" not in key} == {"out/model.tar.gz"}
    with tarfile.open(
        fileobj=s3.get_object(Bucket="bucket", Key="out/model.tar.gz")["Body"], mode="r|gz"
    ) as tar:
        [model] = [json.load(tar.extractfile(member)) for member in tar if member.name == "./model.json"]
    assert model["factor"] == 3


def test_a_stopped_job_goes_on_on_another_machine(s3, start, tmp_path):
    s3.put_object(Bucket="bucket", Key="data/a.txt", Body=b"x")
    told = {
        "S3_CHANNELS": '{"train": "s3://bucket/data"}',
        "S3_CHECKPOINTS": "s3://bucket/checkpoints",
        "S3_OUTPUT": "s3://bucket/out",
    }
    process = start(**told, HYPERPARAMETERS='{"steps": 1000, "step_seconds": 0.02}')
    for line in process.stdout:
        if "step=3;" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    reached = int(s3.get_object(Bucket="bucket", Key="checkpoints/step")["Body"].read())
    assert 3 <= reached < 1000
    elsewhere = tmp_path / "another"
    more = {"SAGEMAKER_BASE_DIR": str(elsewhere), "HYPERPARAMETERS": json.dumps({"steps": reached + 1})}
    again = start(**told, **more)
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0, printed
    assert printed.count("train_loss=") == 1  # one step was left


def test_a_failure_is_sent_and_its_exit_code_kept(s3, start):
    s3.put_object(Bucket="bucket", Key="data/a.txt", Body=b"x")
    process = start(
        S3_CHANNELS='{"train": "s3://bucket/data"}',
        HYPERPARAMETERS='{"fail": "data"}',
        S3_OUTPUT="s3://bucket/o",
    )
    process.communicate(timeout=60)
    assert process.returncode == 1
    failure = s3.get_object(Bucket="bucket", Key="o/output/failure")["Body"].read().decode()
    assert failure.startswith("ClientError: picture train/b.jpg is not a picture")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"S3_CHANNELS": '{"train": "s3://bucket/nothing"}'}, "channel 'train': there is nothing below"),
        ({"S3_CHANNELS": "train"}, "S3_CHANNELS is not JSON"),
        ({"S3_CHANNELS": '{"train": "data"}'}, "must be of the form s3://BUCKET/PREFIX"),
        ({"HYPERPARAMETERS": "[3]"}, "HYPERPARAMETERS must be a JSON object"),
        ({"S3_CHANNELS": '{"train": "s3://no-such-bucket/x"}'}, "NoSuchBucket"),
    ],
)
def test_what_it_cannot_do_is_said_before_training(s3, start, variables, said):
    process = start(**variables)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in printed
    assert "Traceback" not in printed


def test_the_nodes_of_a_batch_job_agree_on_who_leads():
    told = {"AWS_BATCH_JOB_NUM_NODES": "3", "AWS_BATCH_JOB_MAIN_NODE_INDEX": "0"}
    address = "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"
    child = resources(read_elsewhere({**told, "AWS_BATCH_JOB_NODE_INDEX": "2", address: "10.0.0.7"}))
    assert child == {
        "current_host": "10.0.0.7-node-2",
        "hosts": ["10.0.0.7", "10.0.0.7-node-1", "10.0.0.7-node-2"],
    }
    main = resources(read_elsewhere({**told, "AWS_BATCH_JOB_NODE_INDEX": "0", address: "10.0.0.7"}))
    assert main == {"current_host": "10.0.0.7", "hosts": child["hosts"]}


def test_the_environment_sorts_the_main_node_first(tmp_path):
    config = tmp_path / "input/config"
    config.mkdir(parents=True)
    hosts = [*(f"10.0.0.7-node-{index}" for index in range(1, 12)), "10.0.0.7"]
    (config / "resourceconfig.json").write_text(
        json.dumps({"current_host": "10.0.0.7-node-11", "hosts": hosts})
    )
    environment = read_environment({"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert (environment.hosts[0], environment.host_rank) == ("10.0.0.7", 11)


@pytest.mark.parametrize("service", ["batch", "ecs"])
def test_aws_takes_the_job_of_the_readme(service):
    text = (ROOT / "README.md").read_text()
    [properties] = re.findall(r"AWS Batch, in `containerProperties`.*?```json\n(.*?)```", text, re.DOTALL)
    job = json.loads(properties)
    if service == "batch":
        operation = "RegisterJobDefinition"
        told = {"jobDefinitionName": "train", "type": "container", "containerProperties": job}
    else:
        operation = "RegisterTaskDefinition"
        gpus = [entry for entry in job["resourceRequirements"] if entry["type"] == "GPU"]
        own = {"name": "train", "cpu": 8192, "memory": 30000, "stopTimeout": 120}
        told = {"family": "train", "containerDefinitions": [{**job, **own, "resourceRequirements": gpus}]}
    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    report = ParamValidator().validate(told, model.input_shape)
    assert not report.has_errors(), report.generate_report()
