"""launch.py deploy and update --when-approved: the end of a pipeline, after somebody has said yes; with moto_server."""

import json
import shlex
import signal
import time
from threading import Thread

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-serve@sha256:" + "0" * 64
HOST = ("--role", ROLE, "--image", IMAGE, "--instance-type", "ml.g4dn.xlarge", "--poll-seconds", "0.05")
DEPLOY = ("deploy", *HOST, "--name", "door", "--package", "normals", "--when-approved")


@pytest.fixture
def package(aws):
    """The ARN of a model that waits in the group `normals`, beside an older one that is approved."""
    sagemaker = aws.client("sagemaker")
    sagemaker.create_model_package_group(ModelPackageGroupName="normals")
    container = {"Image": IMAGE, "ModelDataUrl": "s3://bucket/model.tar.gz"}
    formats = {"SupportedContentTypes": ["image/png"], "SupportedResponseMIMETypes": ["image/png"]}
    for status in ("Approved", "PendingManualApproval"):
        made = sagemaker.create_model_package(
            ModelPackageGroupName="normals",
            ModelApprovalStatus=status,
            InferenceSpecification={"Containers": [container], **formats},
        )
    return made["ModelPackageArn"]


def decide(aws, package, status):
    aws.client("sagemaker").update_model_package(ModelPackageArn=package, ModelApprovalStatus=status)


def approve_later(aws, package):
    """When `launch` has looked a few times."""

    def approve():
        end = time.monotonic() + 30
        while aws.operations.count("ListModelPackages") < 3:
            if time.monotonic() > end:
                return
            time.sleep(0.02)
        decide(aws, package, "Approved")

    human = Thread(target=approve, daemon=True)
    human.start()
    return human


def test_what_is_approved_is_deployed_and_not_before(aws, launch, package):
    shown = [call["method"] for call in json.loads(launch(*DEPLOY, "--dry-run").stdout)]
    assert shown[:2] == ["list_model_packages"] * 2
    human = approve_later(aws, package)
    result = launch(*DEPLOY)
    human.join()
    assert result.returncode == 0, result.stderr
    waiting = result.stdout.index("waits for approval: aws sagemaker update-model-package")
    assert waiting < result.stdout.index(f"{package} is approved") < result.stdout.index("endpoint door")
    assert aws.sent("CreateModel")["PrimaryContainer"]["ModelPackageName"] == package
    assert aws.operations[: aws.operations.index("CreateModel")].count("ListModelPackages") >= 3
    assert aws.client("sagemaker").describe_endpoint(EndpointName="door")["EndpointStatus"] == "InService"


def test_a_running_endpoint_takes_what_is_approved(aws, launch, package):
    assert launch(*DEPLOY[:-3], "--model-data", "s3://bucket/old/model.tar.gz").returncode == 0
    aws.requests.clear()
    human = approve_later(aws, package)
    launch("update", *HOST, "--endpoint", "door", "--package", "normals", "--when-approved", "--no-show-log")
    human.join()
    assert aws.sent("CreateModel")["PrimaryContainer"]["ModelPackageName"] == package
    assert "UpdateEndpoint" in aws.operations


def test_what_is_rejected_is_not_deployed(aws, refused, package):
    decide(aws, package, "Rejected")
    assert f"{package} is rejected; nothing is deployed" in refused(*DEPLOY)
    assert "CreateModel" not in aws.operations


def test_who_leaves_the_wait_is_told_the_way_back(aws, launch, launch_process, package):
    waiting = launch_process(*DEPLOY)
    while "waits for approval" not in waiting.stdout.readline():
        assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "CreateModel" not in aws.operations
    said, _, words = said.rstrip().partition("nothing is deployed. To wait again: launch.py ")
    assert said == "launch: interrupted\n"
    decide(aws, package, "Approved")
    assert launch(*shlex.split(words)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*DEPLOY, "--no-wait"), "--no-wait: --when-approved is to wait"),
        ((*DEPLOY[:-3], "--job", "job-1", "--when-approved"), "--when-approved is for --package"),
    ],
)
def test_nothing_to_wait_for_is_refused_before_any_call(aws, refused, arguments, said):
    assert said in refused(*arguments)
    assert aws.requests == []
