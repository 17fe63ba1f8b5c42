"""launch.py shift: traffic from one variant to another in steps, and back whatever ends it, against moto_server."""

import re
import signal

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-serve@sha256:" + "0" * 64
HOST = ("--role", ROLE, "--image", IMAGE, "--poll-seconds", "0.05", "--instance-type", "ml.g4dn.xlarge")
SEVERAL = ("deploy", *HOST, "--name", "normals")
CHANGE = "UpdateEndpointWeightsAndCapacities"


def two_variants(aws, launch):
    variants = ("--variant", "old=s3://b/old.tar.gz,100", "--variant", "new=s3://b/new.tar.gz,0")
    result = launch(*SEVERAL, *variants)
    assert result.returncode == 0, result.stderr
    rows = [{"VariantName": "old", "CurrentWeight": 100}, {"VariantName": "new", "CurrentWeight": 0}]
    aws.answers["DescribeEndpoint"] = [{"ProductionVariants": rows}]  # moto tells weights only when changed


SHIFT = ("shift", "--endpoint", "normals", "--to", "new", "--step-seconds", "0.1", "--poll-seconds", "0.05")


def weights(aws):
    rows = aws.client("sagemaker").describe_endpoint(EndpointName="normals")["ProductionVariants"]
    return {row["VariantName"]: row.get("DesiredWeight", row["CurrentWeight"]) for row in rows}


def test_shift_moves_the_traffic_in_steps(aws, launch):
    two_variants(aws, launch)
    result = launch(*SHIFT)
    assert result.returncode == 0, result.stderr
    told = [line.partition(" ")[2] for line in result.stdout.splitlines() if "%, " in line or " %," in line]
    assert told == ["new 10 %, old 90 %", "new 50 %, old 50 %", "new 100 %, old 0 %"]
    assert weights(aws) == {"old": 0, "new": 100}


def test_shift_goes_back_when_an_alarm_rings(aws, launch):
    two_variants(aws, launch)
    cloudwatch = aws.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="mine", MetricName="m", Namespace="n", Statistic="Sum", Period=60, EvaluationPeriods=1,
        Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    cloudwatch.set_alarm_state(AlarmName="mine", StateValue="ALARM", StateReason="too many errors")
    result = launch(*SHIFT, "--alarm", "mine")
    assert result.returncode == 1
    assert "all weights are as before: an alarm rang: mine: too many errors" in result.stderr
    assert weights(aws) == {"old": 100, "new": 0}


def test_shift_refuses_what_makes_no_sense(aws, launch, refused):
    two_variants(aws, launch)
    assert "must be rising percentages" in refused(*SHIFT, "--steps", "50,10")
    assert "nothing to shift to next" in refused(*SHIFT[:4], "next")


def refusal(code, message="said AWS"):
    return {"status": 400, "__type": code, "message": message}


def test_a_busy_service_does_not_end_it(aws, launch):
    two_variants(aws, launch)
    aws.answers["DescribeAlarms"] = [refusal("ThrottlingException")] * 3  # boto3 tries 3 times
    result = launch(*SHIFT)
    assert result.returncode == 0, result.stderr
    assert "AWS does not answer, trying again" in result.stdout
    assert weights(aws) == {"old": 0, "new": 100}


@pytest.mark.parametrize(
    ("operation", "answers", "reason"),
    [
        ("DescribeAlarms", [refusal("AccessDeniedException")], "AWS refused DescribeAlarms: AccessDenied"),
        ("DescribeAlarms", [refusal("ExpiredTokenException")], "AWS refused DescribeAlarms: ExpiredToken"),
        (CHANGE, [{}, *[refusal("ThrottlingException")] * 3], f"AWS refused {CHANGE}: ThrottlingException"),
        (CHANGE, [{}, *[None] * 3], "Connection was closed"),
    ],
)
def test_shift_goes_back_whatever_ends_it(aws, launch, operation, answers, reason):
    two_variants(aws, launch)
    aws.answers[operation] = answers
    result = launch(*SHIFT)
    assert result.returncode == 1
    assert f"all weights are as before: {reason}" in result.stderr
    assert aws.operations.count(CHANGE) > 1
    assert weights(aws) == {"old": 100, "new": 0}


def test_nothing_is_put_back_where_nothing_was_changed(aws, launch):
    two_variants(aws, launch)
    aws.answers[CHANGE] = [refusal("AccessDeniedException")]
    aws.answers["DescribeEndpoint"] *= 2
    assert f"all weights are as before: AWS refused {CHANGE}" in launch(*SHIFT).stderr
    assert aws.operations.count(CHANGE) == 1


def test_where_the_way_back_is_barred_the_command_for_it_is_told(aws, launch):
    two_variants(aws, launch)
    aws.answers["DescribeAlarms"] = [refusal("ExpiredTokenException")]
    aws.answers[CHANGE] = [{}, refusal("ExpiredTokenException")]
    result = launch(*SHIFT)
    assert result.returncode == 1
    assert "the weights could not be put back" in result.stderr
    assert (
        "aws sagemaker update-endpoint-weights-and-capacities --endpoint-name normals --region us-east-1 "
        "--desired-weights-and-capacities VariantName=old,DesiredWeight=100 VariantName=new,DesiredWeight=0"
    ) in result.stderr
    assert weights(aws) == {"old": 90, "new": 10}


def test_interrupted_it_goes_back_as_soon_as_the_endpoint_takes_it(aws, launch, launch_process):
    """While it is Updating, AWS refuses another change."""
    two_variants(aws, launch)
    updating = 15
    aws.answers["DescribeEndpoint"] += [{"EndpointStatus": "Updating"}] * updating
    aws.requests.clear()
    shifting = launch_process(*SHIFT, "--poll-seconds", "0.2")
    while "new 10 %" not in shifting.stdout.readline():
        assert shifting.poll() is None
    shifting.send_signal(signal.SIGINT)
    output, errors = shifting.communicate(timeout=120)
    assert shifting.returncode == 1, output
    assert errors == "launch: all weights are as before: interrupted\n"
    first, second = (place for place, name in enumerate(aws.operations) if name == CHANGE)
    assert aws.operations[first:second].count("DescribeEndpoint") > updating
    assert weights(aws) == {"old": 100, "new": 0}


def test_shift_cannot_be_left(launch):
    """Without somebody who looks at the alarms there is no way back."""
    assert re.search("unrecognized arguments: --no-wait", launch(*SHIFT, "--no-wait").stderr)
