"""launch.py deploy --delete-after: whatever ends the command, nothing is left that costs; against moto_server."""

import json
import signal
import time

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-serve@sha256:" + "0" * 64
DEPLOY = (
    *("deploy", "--role", ROLE, "--image", IMAGE, "--model-data", "s3://bucket/model.tar.gz"),
    *("--instance-type", "ml.g4dn.xlarge", "--poll-seconds", "0.05", "--name", "normals"),
)


def left(aws):
    sagemaker = aws.client("sagemaker")
    return [
        *(row["EndpointName"] for row in sagemaker.list_endpoints()["Endpoints"]),
        *(row["EndpointConfigName"] for row in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(row["ModelName"] for row in sagemaker.list_models()["Models"]),
    ]


def test_an_endpoint_serves_for_its_time_and_is_deleted_with_all_it_has(aws, launch):
    words = (*DEPLOY, "--autoscale", "1:2", "--delete-after", "1s")
    shown = [call["method"] for call in json.loads(launch(*words, "--dry-run").stdout)]
    began = time.monotonic()
    result = launch(*words)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began > 1
    assert "normals serves until" in result.stdout
    assert result.stdout.index("serves until") < result.stdout.index("endpoint normals is deleted")
    assert left(aws) == []
    made = [operation for operation in aws.operations if operation.startswith(("Delete", "Deregister"))]
    assert [call.replace("_", "") for call in shown if call.startswith("de")] == [
        operation.lower() for operation in made
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("while_it", ["comes up", "serves"])
def test_who_ends_the_command_ends_the_endpoint(aws, launch_process, number, while_it):
    if while_it == "comes up":
        aws.answers["DescribeEndpoint"] = [{"EndpointStatus": "Creating"}] * 1000
    deploying = launch_process(*DEPLOY, "--delete-after", "1h")
    while {"comes up": "Creating", "serves": "serves until"}[while_it] not in deploying.stdout.readline():
        assert deploying.poll() is None
    aws.answers["DescribeEndpoint"] = []
    deploying.send_signal(number)
    told, errors = deploying.communicate(timeout=60)
    assert deploying.returncode == 130, errors
    assert "deleting all that was launched as normals" in told
    assert left(aws) == []


def test_what_does_not_come_up_is_told_and_deleted(aws, refused):
    failed = {"EndpointStatus": "Failed", "FailureReason": "did not pass the ping health check"}
    aws.answers["DescribeEndpoint"] = [failed]
    said = refused(*DEPLOY, "--delete-after", "1h")
    assert "did not pass the ping health check" in said
    assert said.endswith("normals is deleted, as --delete-after asks for")
    assert left(aws) == []


def test_what_cannot_be_deleted_is_told(aws, refused):
    aws.answers["DeleteEndpoint"] = [{"status": 400, "__type": "AccessDeniedException", "message": "not you"}]
    said = refused(*DEPLOY, "--delete-after", "1s")
    assert "AWS refused DeleteEndpoint" in said
    assert said.endswith("To delete it: launch.py delete normals")
    assert "normals" in left(aws)


def test_what_was_there_before_under_the_name_stays(aws, launch, refused):
    assert launch(*DEPLOY).returncode == 0
    aws.answers["CreateModel"] = [
        {"status": 400, "__type": "ValidationException", "message": "already existing"}
    ]
    assert "AWS refused CreateModel" in refused(*DEPLOY, "--delete-after", "1s")
    assert left(aws) == ["normals"] * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("30",), "--delete-after '30': a whole number and a unit, as in 90s, 30m, 2h or 1d"),
        (("0m",), "--delete-after '0m'"),
        (("1h", "--no-wait"), "--no-wait: --delete-after is done by this command"),
    ],
)
def test_no_time_and_no_stay_are_refused_before_any_call(aws, refused, arguments, said):
    assert said in refused(*DEPLOY, "--delete-after", *arguments)
    assert aws.requests == []
