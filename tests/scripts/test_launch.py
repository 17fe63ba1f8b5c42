"""launch.py as a process against moto_server: what reaches AWS, what stays at home, what the user reads."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-train@sha256:" + "0" * 64
TRAIN = (
    *("train", "--role", ROLE, "--data", "s3://bucket/data/train", "--output", "s3://bucket/models"),
    *("--image", IMAGE, "--poll-seconds", "0.1"),
)
DEPLOY = (
    *("deploy", "--role", ROLE, "--model-data", "s3://bucket/model.tar.gz", "--image", IMAGE),
    *("--instance-type", "ml.g4dn.xlarge", "--poll-seconds", "0.1"),
)


def one_line(result):
    """The line that names the fault."""
    assert result.returncode == 1
    [line, *_] = result.stderr.splitlines()  # a cure may follow
    assert line.startswith("launch: ")
    return line


# train


def test_train_sends_the_whole_job(aws, launch):
    result = launch(
        *TRAIN,
        *("--validation", "s3://bucket/data/validation/", "--checkpoint", "s3://bucket/checkpoints"),
        *("--channel", "pretrained=s3://bucket/weights"),
        *(
            "--hyperparameters",
            '{"epochs": 20, "tensorboard": false, "size": "tiny"}',
            "--hyperparameter",
            "epochs=3",
        ),
        *("--instance-type", "ml.g6.2xlarge", "--max-runtime", "3600", "--spot", "--name", "job-1"),
    )
    assert result.returncode == 0, result.stderr
    assert "model: s3://bucket/models/job-1/output/model.tar.gz" in result.stdout

    job = aws.client("sagemaker").describe_training_job(TrainingJobName="job-1")
    assert job["RoleArn"] == ROLE
    assert job["HyperParameters"] == {"epochs": "3", "tensorboard": "false", "size": "tiny"}
    assert job["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert job["AlgorithmSpecification"]["TrainingInputMode"] == "File"
    assert [
        (channel["ChannelName"], channel["DataSource"]["S3DataSource"]["S3Uri"])
        for channel in job["InputDataConfig"]
    ] == [
        ("train", "s3://bucket/data/train/"),
        ("validation", "s3://bucket/data/validation/"),
        ("pretrained", "s3://bucket/weights/"),
    ]
    assert job["OutputDataConfig"]["S3OutputPath"] == "s3://bucket/models"
    assert job["ResourceConfig"] == {
        "InstanceType": "ml.g6.2xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 100,
    }
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert job["EnableManagedSpotTraining"] is True
    assert job["CheckpointConfig"]["S3Uri"] == "s3://bucket/checkpoints"
    sent = aws.sent("CreateTrainingJob")
    assert sent["Environment"] == {"METRICS_PROJECT": "surface-normals"}
    # moto puts its own metric definitions into what it describes, so look at what was sent.
    assert all(
        set(metric) == {"Name", "Regex"} for metric in sent["AlgorithmSpecification"]["MetricDefinitions"]
    )
    assert sent["AlgorithmSpecification"]["MetricDefinitions"]


def test_train_names_the_job_after_the_project_and_the_time(aws, launch):
    assert launch(*TRAIN, "--project", "my-model", "--no-wait").returncode == 0
    name = aws.sent("CreateTrainingJob")["TrainingJobName"]
    assert name.startswith("my-model-")
    time.strptime(name.removeprefix("my-model-"), "%Y%m%d-%H%M%S")


def at(status, *steps, **more):
    """What describe_training_job says of a job that has come this far."""
    transitions = [{"Status": step, "StartTime": 0, "StatusMessage": f"{step} it"} for step in steps]
    return {"TrainingJobStatus": status, "SecondaryStatusTransitions": transitions, **more}


def test_train_prints_each_change_and_ends_with_the_reason_of_a_failure(aws, launch):
    aws.answers["DescribeTrainingJob"] = [
        at("InProgress", "Starting"),
        at("InProgress", "Starting"),
        {"status": 503},
        at("InProgress", "Starting", "Downloading", "Training"),
        at(
            "Failed", "Starting", "Downloading", "Training", "Failed", FailureReason="ClientError: no picture"
        ),
    ]
    result = launch(*TRAIN, "--name", "job-1")
    assert result.returncode == 1
    lines = [line.partition(" ")[2] for line in result.stdout.splitlines()]
    assert lines == [
        "training job job-1 is accepted: "
        "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/job-1",
        *(f"{step}: {step} it" for step in ("Starting", "Downloading", "Training", "Failed")),
    ]
    assert result.stderr.startswith("launch: training job job-1 is Failed: ClientError: no picture\n")
    assert "/aws/sagemaker/TrainingJobs" in result.stderr
    assert result.stderr.endswith("home?region=us-east-1#/jobs/job-1\n")


def test_train_goes_on_watching_when_the_line_is_cut(aws, launch):
    aws.answers["DescribeTrainingJob"] = [at("InProgress", "Starting"), *[None] * 3]  # boto3 tries 3 times
    result = launch(*TRAIN, "--name", "job-1")
    assert result.returncode == 0, result.stderr
    assert "AWS does not answer, trying again" in result.stdout
    assert "model: s3://bucket/models/job-1/output/model.tar.gz" in result.stdout


def test_train_interrupted_says_that_the_job_goes_on(aws, launch_process):
    aws.answers["DescribeTrainingJob"] = [at("InProgress", "Starting")] * 1000
    watcher = launch_process(*TRAIN, "--name", "job-1")
    while "Starting" not in watcher.stdout.readline():
        assert watcher.poll() is None
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert errors == (
        "launch: no longer watching; training job job-1 goes on. To come back: launch.py status job-1 --wait;"
        " to end it: launch.py stop job-1\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "under_score"), "TrainingJobName: 'under_score'"),
        (("--name", "n" * 64), "TrainingJobName has 64 characters, the limit is 63"),
        (("--role", "arn:aws:iam::1:user/me-and-more"), "RoleArn"),
        (("--output", "/tmp/models"), "OutputDataConfig.S3OutputPath"),
        (("--data", "./pictures"), "InputDataConfig[0].DataSource.S3DataSource.S3Uri"),
        (("--image", "x" * 256), "AlgorithmSpecification.TrainingImage has 256 characters, the limit is 255"),
        (("--max-runtime", str(28 * 24 * 3600 + 1)), "--max-runtime"),
        (("--max-runtime", "0"), "--max-runtime"),
        (("--instance-count", "0"), "--instance-count"),
        (("--hyperparameter", "epochs"), "'epochs' is not NAME=VALUE"),
        (("--hyperparameter", "epcohs=3"), "'epcohs' is unknown; did you mean 'epochs'?"),
        (("--hyperparameters", '{"batch_size": "many"}'), "'batch_size' must be an integer"),
        (("--hyperparameter", "learning-rate=7"), "'learning-rate' must be at most 1.0"),
        (("--channel", "pre trained=s3://b/w"), "InputDataConfig[1].ChannelName: 'pre trained'"),
        (("--channel", "pretrained"), "'pretrained' is not NAME=VALUE"),
        (("--hyperparameters", "epochs: 3"), "not JSON"),
        (("--hyperparameters", "[3]"), "must be a JSON object"),
        (("--model-package", "no_such_model"), "no_such_model"),
    ],
)
def test_train_refuses_what_aws_would_refuse_before_any_call(aws, refused, arguments, said):
    assert said in refused(*TRAIN, *arguments)
    assert aws.requests == []


# every verb


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name in "abc":
        (tmp_path / "data" / name).write_text(name)
    return tmp_path / "data"


def test_dry_run_prints_the_calls_and_makes_none(aws, launch, folder, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    verbs = {
        ("upload", "--no-check", folder, "s3://bucket/x"): ["list_objects_v2", *["put_object"] * 3],
        TRAIN: ["create_training_job"],
        DEPLOY: ["create_model", "create_endpoint_config", "create_endpoint"],
        ("deploy", "--role", ROLE, "--job", "j", "--image", IMAGE): [
            "describe_training_job",
            *("create_model", "create_endpoint_config", "create_endpoint"),
        ],
        ("invoke", "--endpoint", "e", tmp_path / "photo.jpg"): ["invoke_endpoint"],
    }
    for arguments, methods in verbs.items():
        # Not even a region or a key is needed.
        result = launch(
            *arguments, "--dry-run", AWS_REGION=None, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None
        )
        assert result.returncode == 0, result.stderr
        assert [call["method"] for call in json.loads(result.stdout)] == methods
    assert aws.requests == []
    assert not (tmp_path / "photo-normals.png").exists()


def test_what_a_dry_run_prints_is_what_is_sent(aws, launch):
    [printed] = json.loads(launch(*TRAIN, "--name", "job-1", "--dry-run").stdout)
    assert launch(*TRAIN, "--name", "job-1").returncode == 0
    assert aws.sent("CreateTrainingJob") == printed["arguments"]


def test_missing_credentials_and_region_are_one_line_each(launch):
    assert "no AWS credentials" in one_line(
        launch(*TRAIN, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    )
    assert "no AWS region" in one_line(launch(*TRAIN, AWS_REGION=None))


@pytest.mark.parametrize(
    ("role", "arguments"),
    [
        ("train", (*TRAIN[: TRAIN.index("--image")], "--dry-run")),
        ("serve", (*DEPLOY[: DEPLOY.index("--image")], "--dry-run")),
    ],
)
def test_the_image_is_the_one_that_was_pushed_last(environment, tmp_path, role, arguments):
    shutil.copytree(SCRIPTS, tmp_path / "checkout" / "scripts")
    (tmp_path / "checkout" / "container").symlink_to(SCRIPTS.parent / "container")
    command = [sys.executable, tmp_path / "checkout" / "scripts" / "launch.py", *arguments]

    before = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert f"no file {role}.digest: run `make push` first" in one_line(before)

    def say(digest):
        (tmp_path / "checkout" / f"{role}.digest").write_text(digest)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert f"{role}.digest is not of this version" in one_line(say(f"{IMAGE}\n"))
    assert f'"{IMAGE}"' in say(f"{IMAGE} cu128\n").stdout
    if role == "serve":
        assert "inference-gpu-4-1" in say(f"{IMAGE} cu130\n").stdout
        assert "would not use the GPU of ml.g" in one_line(say(f"{IMAGE} cpu\n"))


def test_a_refusal_of_aws_is_one_line(aws, launch):
    refusal = {"status": 400, "__type": "AccessDeniedException", "message": "User: me is not authorized"}
    aws.answers["CreateTrainingJob"] = [refusal]
    assert one_line(launch(*TRAIN)) == (
        "launch: AWS refused CreateTrainingJob: AccessDeniedException: User: me is not authorized"
    )
