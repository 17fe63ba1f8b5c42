"""launch.py deploy, invoke and delete, as processes against moto_server; refusals in this process."""

import json
import re
import shlex
import signal

import pytest

from launching.models import host_ami

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-train@sha256:" + "0" * 64
DEPLOY = (
    *("deploy", "--role", ROLE, "--model-data", "s3://bucket/model.tar.gz", "--image", IMAGE),
    *("--instance-type", "ml.g4dn.xlarge", "--poll-seconds", "0.1"),
)


def test_deploy_makes_model_configuration_and_endpoint_and_delete_removes_them(aws, launch):
    result = launch(*DEPLOY, "--name", "normals", "--startup-timeout", "900")
    assert result.returncode == 0, result.stderr
    assert "InService" in result.stdout

    sagemaker = aws.client("sagemaker")
    container = sagemaker.describe_model(ModelName="normals")["PrimaryContainer"]
    assert container["Image"] == IMAGE
    assert container["ModelDataUrl"] == "s3://bucket/model.tar.gz"
    assert container["Environment"] == {
        "ENDPOINT_NAME": "normals",
        "VARIANT_NAME": "AllTraffic",
        "METRICS_PROJECT": "surface-normals",
    }
    [variant] = aws.sent("CreateEndpointConfig")["ProductionVariants"]
    assert variant == {
        "VariantName": "AllTraffic",
        "ModelName": "normals",
        "InstanceType": "ml.g4dn.xlarge",
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 900,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        "InferenceAmiVersion": "al2-ami-sagemaker-inference-gpu-3-1",
    }
    assert sagemaker.describe_endpoint(EndpointName="normals")["EndpointConfigName"] == "normals"

    aws.requests.clear()
    deleted = launch("delete", "normals")
    assert deleted.returncode == 0, deleted.stderr
    assert [operation for operation in aws.operations if operation.startswith("Delete")] == [
        *("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel")
    ]
    assert deleted.stdout.count("is deleted") == 3
    assert not sagemaker.list_endpoints()["Endpoints"]
    assert not sagemaker.list_models()["Models"]

    again = launch("delete", "normals")
    assert again.returncode == 1
    assert "nothing in us-east-1 was launched as normals" in again.stderr


@pytest.mark.parametrize(
    ("instance_type", "ami"),
    [
        ("ml.m5.xlarge", None),
        ("ml.c7g.large", None),
        ("ml.g4dn.xlarge", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("ml.p5en.48xlarge", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("ml.g6e.xlarge", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("ml.g7e.2xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
        ("ml.p6-b200.48xlarge", "al2023-ami-sagemaker-inference-gpu-4-1"),
    ],
)
def test_deploy_asks_for_a_host_with_a_driver_for_the_image(instance_type, ami):
    assert host_ami(instance_type) == ami


def test_deploy_of_a_folder_of_models(aws, launch, refused):
    words = [*DEPLOY, "--name", "many", "--models", "s3://bucket/models"]
    at = words.index("--model-data")
    del words[at : at + 2]
    assert launch(*words).returncode == 0
    container = aws.client("sagemaker").describe_model(ModelName="many")["PrimaryContainer"]
    assert (container["Mode"], container["ModelDataUrl"]) == ("MultiModel", "s3://bucket/models/")
    assert "--models) has no --serverless" in refused(*words, "--serverless")
    both = launch(*words, "--job", "a-job")
    assert (both.returncode, "not allowed with argument --models" in both.stderr) == (2, True)


def test_deploy_on_a_processor_names_no_gpu_host_unless_told_to(launch):
    for given, sent in ((), None), (("--inference-ami", "some-ami"), "some-ami"):
        calls = json.loads(launch(*DEPLOY, "--instance-type", "ml.c6i.large", *given, "--dry-run").stdout)
        assert calls[1]["arguments"]["ProductionVariants"][0].get("InferenceAmiVersion") == sent


def test_deploy_takes_the_model_of_a_training_job(aws, launch, refused):
    train = ("train", "--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/models")
    assert launch(*train, "--image", IMAGE, "--name", "job-1", "--no-wait").returncode == 0
    job = (*DEPLOY[:3], "--job", "job-1", *DEPLOY[5:], "--name", "normals")
    assert launch(*job).returncode == 0
    model = aws.client("sagemaker").describe_model(ModelName="normals")
    assert model["PrimaryContainer"]["ModelDataUrl"] == "s3://bucket/models/job-1/output/model.tar.gz"

    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "Failed"}]
    aws.requests.clear()
    assert "job-1 is Failed and has no model" in refused(*job)
    assert aws.operations == ["DescribeTrainingJob"]


def test_deploy_says_why_an_endpoint_failed_and_what_to_check(aws, launch):
    aws.answers["DescribeEndpoint"] = [
        {"EndpointStatus": "Creating"},
        {"EndpointStatus": "Failed", "FailureReason": "did not pass the ping health check"},
    ]
    result = launch(*DEPLOY, "--name", "normals")
    assert result.returncode == 1
    assert [line.split()[1] for line in result.stdout.splitlines()][1:] == ["Creating", "Failed"]
    assert result.stderr.startswith(
        "launch: endpoint normals is Failed: did not pass the ping health check\n"
    )
    for clue in ("/aws/sagemaker/Endpoints/normals", "--inference-ami", "delete normals"):
        assert clue in result.stderr


def test_deploy_leaves_nothing_behind_when_aws_refuses_a_part(aws, refused):
    refusal = {"status": 400, "__type": "ResourceLimitExceeded", "message": "0 instances of ml.g4dn.xlarge"}
    aws.answers["CreateEndpoint"] = [refusal]
    said = refused(*DEPLOY, "--name", "normals")
    refusal, cure = said.splitlines()
    assert (
        refusal == "launch: AWS refused CreateEndpoint: ResourceLimitExceeded: 0 instances of ml.g4dn.xlarge"
    )
    assert "Service Quotas" in cure
    sagemaker = aws.client("sagemaker")
    assert not sagemaker.list_models()["Models"]
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]


def test_deploy_under_a_name_in_use_leaves_what_is_there_alone(aws, launch, refused):
    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    aws.answers["CreateModel"] = [
        {"status": 400, "__type": "ValidationException", "message": "already existing"}
    ]
    assert "AWS refused CreateModel" in refused(*DEPLOY, "--name", "normals")
    sagemaker = aws.client("sagemaker")
    assert sagemaker.describe_endpoint(EndpointName="normals")
    assert sagemaker.describe_model(ModelName="normals")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "bad.name"), "ModelName: 'bad.name'"),
        (("--name", "n" * 64), "ModelName has 64 characters"),
        (("--startup-timeout", "30"), "ContainerStartupHealthCheckTimeoutInSeconds"),
        (("--startup-timeout", "3601"), "is 3601, above 3600"),
        (("--model-data", "s3://bucket/model/"), "is not an s3://.../model.tar.gz"),
        (("--instance-count", "0"), "--instance-count"),
    ],
)
def test_deploy_refuses_what_aws_would_refuse_before_any_call(aws, refused, arguments, said):
    assert said in refused(*DEPLOY, *arguments)
    assert aws.requests == []


def test_delete_stops_at_a_refusal(aws, launch, refused):
    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    aws.answers["DeleteEndpoint"] = [{"status": 400, "__type": "AccessDeniedException", "message": "not you"}]
    aws.requests.clear()
    assert "AWS refused DeleteEndpoint: AccessDeniedException" in refused("delete", "normals")
    assert not {"DeleteEndpointConfig", "DeleteModel"} & set(aws.operations)


def test_delete_leaves_what_others_made(aws, launch):
    """Also where its name begins with this one, or is the same."""
    for name in ("normals", "normals-2"):
        assert launch(*DEPLOY, "--name", name).returncode == 0
    sagemaker = aws.client("sagemaker")
    sagemaker.create_model(ModelName="normals-by-hand", ExecutionRoleArn=ROLE)
    assert launch("delete", "normals").returncode == 0
    assert {model["ModelName"] for model in sagemaker.list_models()["Models"]} == {
        *("normals-2", "normals-by-hand")
    }
    assert [row["EndpointName"] for row in sagemaker.list_endpoints()["Endpoints"]] == ["normals-2"]


def test_delete_dry_run_shows_the_deletions_and_makes_none(aws, launch):
    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    calls = json.loads(launch("delete", "normals", "--dry-run").stdout)
    assert [call["method"] for call in calls] == ["delete_endpoint", "delete_endpoint_config", "delete_model"]
    assert aws.client("sagemaker").list_endpoints()["Endpoints"]


# a deploy that was cut

SCALED = (*DEPLOY, "--name", "normals", "--autoscale", "1:3")


def commanded(said):
    """The words of the command that is told to go on."""
    [command] = re.findall(r"launch\.py (deploy .*--resume)", said)
    return shlex.split(command)


def targets(aws):
    scaling = aws.client("application-autoscaling")
    return scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "PutScalingPolicy"])
def test_a_cut_deploy_tells_the_command_that_finishes_it(aws, launch, refused, operation):
    expired = {"status": 400, "__type": "ExpiredTokenException", "message": "The token is expired"}
    aws.answers[operation] = [expired]
    said = refused(*SCALED)
    assert "expired" in said
    aws.requests.clear()
    finished = launch(*commanded(said))
    assert finished.returncode == 0, finished.stderr
    assert not {"CreateModel", "CreateEndpointConfig", "CreateEndpoint"} & set(aws.operations)
    [target] = targets(aws)
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
    policies = aws.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")
    assert len(policies["ScalingPolicies"]) == 1


def test_an_interrupted_deploy_does_so_too(aws, launch, launch_process):
    """Also where the name was made up."""
    aws.answers["DescribeEndpoint"] = [{"EndpointStatus": "Creating"}] * 1000
    unnamed = [*DEPLOY, "--autoscale", "1:3"]
    deploying = launch_process(*unnamed)
    while "Creating" not in deploying.stdout.readline():
        assert deploying.poll() is None
    deploying.send_signal(signal.SIGINT)
    _, said = deploying.communicate(timeout=60)
    assert deploying.returncode == 1
    assert targets(aws) == []
    aws.answers["DescribeEndpoint"] = []
    finished = launch(*commanded(said))
    assert finished.returncode == 0, finished.stderr
    [endpoint] = aws.client("sagemaker").list_endpoints()["Endpoints"]
    assert targets(aws)[0]["ResourceId"] == f"endpoint/{endpoint['EndpointName']}/variant/AllTraffic"


def test_only_what_has_a_name_can_be_gone_on_with(refused):
    assert "--resume: give the --name" in refused(*DEPLOY, "--resume")


def test_a_login_that_ends_between_two_creations_takes_the_first_back(aws, launch, environment, refused):
    aws.answers["CreateEndpointConfig"] = [None] * 3  # the line is cut, which is no answer of AWS
    assert "Connection was closed" in refused(*DEPLOY, "--name", "normals")
    assert not aws.client("sagemaker").list_models()["Models"]
