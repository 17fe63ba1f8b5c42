"""launch.py train: what SageMaker offers for a job, and how a job is watched, against moto_server."""

import json
import time

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-train@sha256:" + "0" * 64
TRAIN = (
    *("train", "--role", ROLE, "--data", "s3://bucket/data/train", "--output", "s3://bucket/models"),
    *("--image", IMAGE, "--poll-seconds", "0.05", "--name", "job-1"),
)


def planned(launch, *arguments):
    """The job's request as a dry run prints it."""
    result = launch(*TRAIN, *arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)[-1]["arguments"]


def test_everything_a_job_may_have_is_sent(launch):
    job = planned(
        launch,
        *("--pretrained", "s3://bucket/weights", "--input-mode", "FastFile"),
        *(
            "--distribution",
            "ShardedByS3Key",
            "--instance-count",
            "2",
            "--keep-alive",
            "1800",
            "--retry",
            "3",
        ),
        *("--subnet", "subnet-1", "--security-group", "sg-1", "--network-isolation"),
        *("--encrypt-between-containers", "--kms-key", "alias/data", "--volume-kms-key", "key-1"),
        *("--tag", "team=vision", "--environment", "LOG_LEVEL=DEBUG", "--usd-per-hour", "1.408"),
    )
    train, pretrained = job["InputDataConfig"]
    assert train["DataSource"]["S3DataSource"]["S3DataDistributionType"] == "ShardedByS3Key"
    assert pretrained["ChannelName"] == "pretrained"
    assert pretrained["DataSource"]["S3DataSource"]["S3DataDistributionType"] == "FullyReplicated"
    assert job["AlgorithmSpecification"]["TrainingInputMode"] == "FastFile"
    assert job["ResourceConfig"] == {
        "InstanceType": "ml.g5.xlarge",
        "InstanceCount": 2,
        "VolumeSizeInGB": 100,
        "VolumeKmsKeyId": "key-1",
        "KeepAlivePeriodInSeconds": 1800,
    }
    assert job["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert job["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert job["EnableNetworkIsolation"] is True
    assert job["EnableInterContainerTrafficEncryption"] is True
    assert job["OutputDataConfig"] == {"S3OutputPath": "s3://bucket/models", "KmsKeyId": "alias/data"}
    assert job["Tags"] == [
        {"Key": "project", "Value": "surface-normals"},
        {"Key": "launched-as", "Value": "job-1"},
        {"Key": "team", "Value": "vision"},
    ]
    assert job["Environment"] == {
        "METRICS_PROJECT": "surface-normals",
        "INSTANCE_USD_PER_HOUR": "1.408",
        "LOG_LEVEL": "DEBUG",
    }


def test_a_spot_job_has_checkpoints_of_its_own_unless_told_where(launch):
    assert planned(launch, "--spot")["CheckpointConfig"] == {"S3Uri": "s3://bucket/models/job-1/checkpoints"}
    assert planned(launch, "--spot", "--checkpoint", "s3://bucket/c")["CheckpointConfig"] == {
        "S3Uri": "s3://bucket/c"
    }
    assert "CheckpointConfig" not in planned(launch)


def test_the_saving_by_spot_is_told(aws, launch):
    ended = {"TrainingJobStatus": "Completed", "TrainingTimeInSeconds": 1000, "BillableTimeInSeconds": 320}
    aws.answers["DescribeTrainingJob"] = [ended]
    result = launch(*TRAIN, "--spot")
    assert "training time 1000 s, billed 320 s, 68 % saved by spot" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-wait", "100"), "--max-wait is for --spot"),
        (("--spot", "--max-wait", "100"), "is below --max-runtime"),
        (("--spot", "--keep-alive", "60"), "--keep-alive and --spot exclude each other"),
        (("--retry", "31"), "--retry 31: from 1 to 30"),
        (("--subnet", "subnet-1"), "--subnet and --security-group belong together"),
        (("--tag", "team"), "--tag 'team' is not NAME=VALUE"),
        (("--keep-alive", "21601"), "KeepAlivePeriodInSeconds is 21601, above 21600"),
        (("--environment", "A-B=1"), "Environment name 'A-B'"),
        (("--region", "eu-west-1"), "the image is in us-east-1 and the calls go to eu-west-1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_call(aws, refused, arguments, said):
    assert said in refused(*TRAIN, *arguments)
    assert aws.requests == []


def test_an_instance_type_that_boto3_does_not_know_is_doubted_but_sent(launch):
    result = launch(*TRAIN, "--instance-type", "ml.g5.xlrage", "--dry-run")
    assert result.returncode == 0
    assert "did you mean ml.g5.xlarge" in result.stderr


def security_group(ec2, name, *sides):
    group = ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
    ec2.revoke_security_group_egress(
        GroupId=group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    rule = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    for side in sides:
        getattr(ec2, f"authorize_security_group_{side}")(GroupId=group, IpPermissions=rule)
    return group


def test_several_instances_in_a_vpc_must_be_able_to_speak_to_each_other(aws, launch, refused):
    ec2 = aws.client("ec2")
    several = (*TRAIN, "--instance-count", "2", "--subnet", "subnet-1", "--no-wait", "--security-group")
    assert "lets its members speak" in refused(*several, security_group(ec2, "inwards", "ingress"))
    assert "CreateTrainingJob" not in aws.operations
    assert launch(*several, security_group(ec2, "both", "ingress", "egress")).returncode == 0
    assert "CreateTrainingJob" in aws.operations


# watching


def write_log(aws, *lines, stream="job-1/algo-1-1700000000", group="/aws/sagemaker/TrainingJobs"):
    logs = aws.client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(1000 * time.time())
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_the_log_is_shown_once_and_without_the_metrics(aws, launch):
    write_log(aws, "step 5 of 100 (5 %)", '{"_aws": {"Timestamp": 1}}', "train_loss=0.5;")
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "InProgress"}] * 3
    result = launch(*TRAIN)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("algo-1 | step 5 of 100 (5 %)") == 1
    assert "algo-1 | train_loss=0.5;" in result.stdout
    assert "_aws" not in result.stdout


def test_a_failure_shows_the_last_50_lines_and_the_likely_cure(aws, launch):
    write_log(aws, *(f"line {number}" for number in range(70)), "CUDA out of memory")
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "Failed", "FailureReason": "exit code 1"}]
    result = launch(*TRAIN, "--no-show-log")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "launch: training job job-1 is Failed: exit code 1"
    assert lines[1].startswith("the last 50 lines of its log, CloudWatch group /aws/sagemaker/TrainingJobs")
    assert lines[2] == "  algo-1 | line 21"
    assert lines[51] == "  algo-1 | CUDA out of memory"
    assert lines[52].startswith("likely cure: the GPU's memory is too small")


def test_without_a_log_the_container_never_started(aws, launch):
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "Failed", "FailureReason": "InternalError"}]
    assert "the container never started" in launch(*TRAIN).stderr


@pytest.mark.parametrize("operation", ["DescribeTrainingJob", "FilterLogEvents"])
def test_credentials_that_expire_while_watching_leave_the_way_back(aws, refused, operation):
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "InProgress"}] * 2
    aws.answers[operation] = [
        *aws.answers.get(operation, []),
        {"status": 400, "__type": "ExpiredTokenException", "message": "expired"},
    ]
    said = refused(*TRAIN)
    assert "your AWS credentials have expired; training job job-1 goes on" in said
    assert "launch.py status job-1 --wait" in said


def test_throttling_only_makes_it_wait_longer(aws, launch):
    throttled = {"status": 400, "__type": "ThrottlingException", "message": "Rate exceeded"}
    aws.answers["DescribeTrainingJob"] = [throttled] * 3  # boto3 tries 3 times
    result = launch(*TRAIN)
    assert result.returncode == 0, result.stderr
    assert "AWS does not answer, trying again" in result.stdout


def test_status_finds_the_way_back_to_a_job(aws, launch, refused):
    assert launch(*TRAIN, "--no-wait").returncode == 0
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "InProgress"}] * 2
    result = launch("status", "job-1", "--wait", "--poll-seconds", "0.05")
    assert result.returncode == 0, result.stderr
    assert "Completed" in result.stdout
    assert "no training job" not in refused("status", "no-such-job")
    assert "of the name no-such-job" in refused("status", "no-such-job")


def test_status_without_a_name_lists_what_runs(aws, launch):
    assert launch(*TRAIN, "--no-wait").returncode == 0
    summary = {"TrainingJobName": "job-1", "TrainingJobStatus": "InProgress", "TrainingJobArn": "a"}
    aws.answers["ListTrainingJobs"] = [{"TrainingJobSummaries": [summary]}]
    assert launch("status").stdout.split() == ["training", "job", "job-1", "InProgress"]


def test_logs_prints_the_log_of_a_job(aws, launch, refused):
    assert launch(*TRAIN, "--no-wait").returncode == 0
    assert "has no log yet" in refused("logs", "job-1")
    write_log(aws, "a line", "another")
    assert launch("logs", "job-1").stdout.splitlines() == ["algo-1 | a line", "algo-1 | another"]


def test_stop_ends_what_runs_and_only_that(aws, launch, refused):
    assert launch(*TRAIN, "--no-wait").returncode == 0
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "InProgress"}]
    assert "asked to stop" in launch("stop", "job-1").stdout
    assert aws.sent("StopTrainingJob") == {"TrainingJobName": "job-1"}
    assert "no job job-1 runs" in refused("stop", "job-1")
