"""launch.py policy: what each verb does at AWS is in its policy, and what is in its policy is an action of AWS."""

import json
import re

import botocore.session
import pytest

import launch as launch_script

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals"
IMAGE = ("--image", f"{HOST}@sha256:{'0' * 64}")
POLL = ("--poll-seconds", "0.02")
DATA = ("--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/out", *IMAGE, *POLL)
SERVE = ("--role", ROLE, *IMAGE, *POLL, "--instance-type", "ml.g4dn.xlarge")
# What a verb needs to be there before it, and itself.
COMMANDS = {
    "upload": [("upload", "files", "s3://bucket/x")],
    "download": [("upload", "files", "s3://bucket/x"), ("download", "s3://bucket/x", "there")],
    "train": [("train", *DATA, "--name", "job-1")],
    "deploy": [
        ("train", *DATA, "--name", "job-1"),
        ("deploy", *SERVE, "--job", "job-1", "--name", "e", "--async", "s3://bucket/a", "--autoscale", "0:1"),
    ],
    "update": [
        ("deploy", *SERVE, "--model-data", "s3://b/m.tar.gz", "--name", "e"),
        ("update", *SERVE, "--model-data", "s3://b/n.tar.gz", "--endpoint", "e"),
    ],
    "shift": [
        ("deploy", *SERVE, "--variant", "a=s3://b/m.tar.gz", "--variant", "b=s3://b/n.tar.gz", "--name", "e"),
        ("shift", "--endpoint", "e", "--to", "b", "--step-seconds", "0", *POLL),
    ],
    "transform": [
        (
            "transform",
            *SERVE,
            "--model-data",
            "s3://b/m.tar.gz",
            "--input",
            "s3://b/i",
            "--output",
            "s3://b/o",
        )
    ],
    "process": [("process", "check", *DATA)],
    "register": [("train", *DATA, "--name", "job-1"), ("register", "--job", "job-1", *IMAGE)],
    "pipeline": [("pipeline", *DATA, "--validation", "s3://bucket/v", "--serve-image", IMAGE[1])],
    "status": [("train", *DATA, "--name", "job-1"), ("status", "job-1"), ("status",)],
    "logs": [("train", *DATA, "--name", "job-1"), ("logs", "job-1")],
    "delete": [
        ("deploy", *SERVE, "--model-data", "s3://b/m.tar.gz", "--name", "e", "--autoscale", "1:2"),
        ("delete", "e"),
    ],
    "cost": [("deploy", *SERVE, "--model-data", "s3://b/m.tar.gz", "--name", "e"), ("cost",)],
}


def actions(policy):
    return {action for row in policy["Statement"] for action in row["Action"]}


def action_of(operation):
    """A request that the stand-in saw, as the end of an IAM action."""
    if " " not in operation:
        return operation
    method, path = operation.split(" ", 1)
    return "ListBucket" if "list-type" in path else {"GET": "GetObject", "PUT": "PutObject"}[method]


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_policy_allows_what_the_verb_does(aws, launch, tmp_path, verb):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    aws.client("s3").create_bucket(Bucket="bucket")
    *before, command = COMMANDS[verb]
    for words in before:
        assert launch(*words).returncode == 0
    aws.requests.clear()
    result = launch(*command)
    assert result.returncode == 0 or "has no log yet" in result.stderr or "went back" in result.stderr
    done = {action_of(operation) for operation in aws.operations}
    allowed = {action.partition(":")[2] for action in actions(json.loads(launch("policy", verb).stdout))}
    assert done
    assert done <= allowed, done - allowed


@pytest.mark.parametrize("verb", sorted({*launch_script.VERBS, "execution-role"} - {"policy"}))
def test_every_policy_names_real_actions_and_the_users_places(launch, verb):
    text = launch(*("policy", verb, "--account", "123456789012", "--bucket", "mine", "--role", ROLE)).stdout
    policy = json.loads(text)
    assert "$" not in text
    if "s3:" in text:
        assert "arn:aws:s3:::mine" in text
    session = botocore.session.get_session()
    services = {"states": "stepfunctions"}
    permissions_only = {
        "iam:PassRole",
        "s3:ListBucket",
        "sagemaker:InvokeEndpoint",
        "sagemaker:InvokeEndpointAsync",
    }
    for action in actions(policy) - permissions_only:
        service, _, operation = action.partition(":")
        known = session.get_service_model(services.get(service, service)).operation_names
        assert operation in known, action
    arns = [arn for row in policy["Statement"] if row["Resource"] != "*" for arn in row["Resource"]]
    assert all(re.match(r"arn:aws:[a-z0-9-]+:", arn) for arn in arns)
