"""launch.py delete: all that was launched under a name and nothing else, against moto_server."""

import json

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals"
IMAGE, SERVE_IMAGE = (f"{HOST}-{role}@sha256:{'0' * 64}" for role in ("train", "serve"))
DEPLOY = (
    *("deploy", "--role", ROLE, "--image", IMAGE, "--model-data", "s3://bucket/model.tar.gz"),
    *("--instance-type", "ml.g4dn.xlarge", "--poll-seconds", "0.05"),
)
UPDATE = ("update", *DEPLOY[1:], "--no-wait")
GUARD = {
    **{"Namespace": "AWS/SageMaker", "MetricName": "ModelLatency", "Statistic": "Average", "Period": 60},
    **{"EvaluationPeriods": 1, "Threshold": 1, "ComparisonOperator": "GreaterThanThreshold"},
    "Dimensions": [{"Name": "EndpointName", "Value": "normals"}],
}


def deletions(aws):
    return [operation for operation in aws.operations if operation.startswith(("Delete", "Deregister"))]


def by_hand(aws, name):
    """An endpoint of that name, with scaling and an alarm, that launch.py did not make."""
    sagemaker = aws.client("sagemaker")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant | {"InitialInstanceCount": 1}]
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    aws.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker", ResourceId=f"endpoint/{name}/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount", MinCapacity=1, MaxCapacity=2,
    )  # fmt: skip
    aws.client("cloudwatch").put_metric_alarm(AlarmName=f"{name}-AllTraffic-latency", **GUARD)


def test_an_endpoint_made_by_hand_keeps_its_scaling_and_alarms(aws, launch, refused):
    by_hand(aws, "normals")
    assert "nothing in us-east-1 was launched as normals" in refused("delete", "normals")
    assert deletions(aws) == []


def test_what_update_gave_to_an_endpoint_made_by_hand_stays_under_it(aws, launch, refused):
    by_hand(aws, "normals")
    updated = launch(*UPDATE, "--endpoint", "normals")
    assert updated.returncode == 0, updated.stderr
    assert "nothing in us-east-1 was launched as normals" in refused("delete", "normals")
    assert deletions(aws) == []


def test_an_alarm_of_ones_own_with_the_endpoints_name_stays(aws, launch):
    assert launch(*DEPLOY, "--name", "normals", "--autoscale", "1:2").returncode == 0
    assert launch(*UPDATE, "--endpoint", "normals").returncode == 0
    cloudwatch = aws.client("cloudwatch")
    cloudwatch.put_metric_alarm(AlarmName="normals-AllTraffic-latency", **GUARD)
    assert launch("delete", "normals").returncode == 0
    left = [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]]
    assert left == ["normals-AllTraffic-latency"]


def test_a_name_that_update_must_cut_is_deleted_whole(aws, launch):
    name = "n" * 63
    assert launch(*DEPLOY, "--name", name).returncode == 0
    assert launch(*UPDATE, "--endpoint", name).returncode == 0
    sagemaker = aws.client("sagemaker")
    assert len(sagemaker.list_models()["Models"]) == 2
    deleted = launch("delete", name)
    assert deleted.returncode == 0, deleted.stderr
    assert not sagemaker.list_models()["Models"]
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]


def test_what_is_left_without_its_endpoint_goes_too(aws, launch):
    assert launch(*DEPLOY, "--name", "normals", "--autoscale", "1:2").returncode == 0
    aws.client("sagemaker").delete_endpoint(EndpointName="normals")
    assert launch("delete", "normals").returncode == 0
    targets = aws.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    assert not targets["ScalableTargets"]
    assert not aws.client("sagemaker").list_models()["Models"]


@pytest.fixture
def pipeline(aws, launch):
    """The state machine and the registry group `normals`, with one model in it."""
    aws.client("s3").create_bucket(Bucket="bucket")
    words = ("--role", ROLE, "--image", IMAGE, "--serve-image", SERVE_IMAGE, "--output", "s3://bucket/models")
    data = ("--data", "s3://bucket/data", "--validation", "s3://bucket/validation")
    made = launch(
        "pipeline", *words, *data, "--name", "normals", "--group", "normals", "--step-functions", "--no-wait"
    )
    assert made.returncode == 0, made.stderr
    train = ("train", *words[:4], *words[6:], *data, "--name", "job-1", "--no-wait")
    assert launch(*train).returncode == 0
    assert launch("register", "--job", "job-1", "--image", SERVE_IMAGE, "--group", "normals").returncode == 0


def test_state_machine_and_registry_group_go_the_models_first(aws, launch, pipeline):
    aws.requests.clear()
    deleted = launch("delete", "normals")
    assert deleted.returncode == 0, deleted.stderr
    assert deletions(aws) == ["DeleteStateMachine", "DeleteModelPackage", "DeleteModelPackageGroup"]
    assert not aws.client("stepfunctions").list_state_machines()["stateMachines"]


def test_of_others_they_stay(aws, launch, refused, pipeline):
    machines = aws.client("stepfunctions")
    [machine] = machines.list_state_machines()["stateMachines"]
    machines.untag_resource(resourceArn=machine["stateMachineArn"], tagKeys=["launched-as"])
    [group] = aws.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"]
    aws.client("sagemaker").delete_tags(ResourceArn=group["ModelPackageGroupArn"], TagKeys=["launched-as"])
    assert "nothing in us-east-1" in refused("delete", "normals")


def test_delete_waits_until_the_endpoint_is_gone_and_can_be_left(aws, launch):
    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    gone = {"status": 400, "__type": "ValidationException", "message": "Could not find endpoint"}
    there = {"status": 200, "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/normals"}
    there |= {"EndpointStatus": "Deleting"}
    aws.answers["DescribeEndpoint"] = [there, there, there, gone]
    result = launch("delete", "normals", "--poll-seconds", "0.05")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("endpoint normals: Deleting") == 1
    assert "endpoint normals is gone" in result.stdout

    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    aws.answers["DescribeEndpoint"] = [there, there, there]
    result = launch("delete", "normals", "--no-wait")
    assert result.returncode == 0
    assert "Deleting" not in result.stdout


def test_a_cut_deletion_says_that_the_same_command_goes_on(aws, launch, refused):
    assert launch(*DEPLOY, "--name", "normals").returncode == 0
    aws.answers["DeleteEndpointConfig"] = [{"status": 400, "__type": "ExpiredTokenException", "message": "e"}]
    assert "come back: launch.py delete normals" in refused("delete", "normals")
    calls = json.loads(launch("delete", "normals", "--dry-run").stdout)
    assert [call["method"] for call in calls] == ["delete_endpoint_config", "delete_model"]
    assert launch("delete", "normals").returncode == 0
