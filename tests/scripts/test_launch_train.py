"""launch.py train: what SageMaker offers for a job, and how a job is watched, against moto_server."""

import json
import signal
import time

import pytest

from launching.cures import cure

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals-train@sha256:" + "0" * 64
TRAIN = (
    *("train", "--role", ROLE, "--data", "s3://bucket/data/train", "--output", "s3://bucket/models"),
    *("--image", IMAGE, "--poll-seconds", "0.05", "--name", "job-1"),
)
PLAN = "arn:aws:sagemaker:us-east-1:123456789012:training-plan/gpus-of-may"


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
        *("--tag", "team=vision", "--environment", "LOG_LEVEL=DEBUG", "--instance-usd-per-hour", "1.408"),
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


def test_the_limits_of_a_jobs_time_are_sent(launch):
    longest = ("--max-runtime", "2419200", "--max-pending", "7200")
    assert planned(launch, *longest)["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 2419200,
        "MaxPendingTimeInSeconds": 7200,
    }
    assert planned(launch)["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}


def test_of_several_instance_types_aws_takes_the_first_it_has(aws, launch):
    several = ("--instance-type", "ml.g6.xlarge,ml.g5.xlarge", "--instance-count", "2")
    assert planned(launch, *several)["ResourceConfig"] == {
        "InstancePreferences": [{"InstanceType": "ml.g6.xlarge"}, {"InstanceType": "ml.g5.xlarge"}],
        "InstanceCount": 2,
        "VolumeSizeInGB": 100,
    }
    resources = {"SelectedInstanceType": "ml.g5.xlarge", "SelectedInstanceCount": 2}
    done = {"TrainingJobStatus": "Completed", "ResourceConfig": resources}
    aws.answers["DescribeTrainingJob"] = [done] * 2
    result = launch(*TRAIN, *several)
    assert "ran on 2 x ml.g5.xlarge" in result.stdout, result.stderr
    assert "training job job-1 is Completed on 2 x ml.g5.xlarge" in launch("status", "job-1").stdout


def test_reserved_capacity_is_that_of_the_first_type(launch):
    assert planned(launch, "--training-plan", PLAN)["ResourceConfig"]["TrainingPlanArn"] == PLAN
    resources = planned(launch, "--training-plan", PLAN, "--instance-type", "ml.p5.48xlarge,ml.p4d.24xlarge")
    assert resources["ResourceConfig"]["InstancePreferences"] == [
        {"InstanceType": "ml.p5.48xlarge", "TrainingPlanArns": [PLAN]},
        {"InstanceType": "ml.p4d.24xlarge"},
    ]
    assert "TrainingPlanArn" not in resources["ResourceConfig"]


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
        (("--max-runtime", "2419201"), "--max-runtime 2419201: from 1 to 2419200 s (28 days)"),
        (("--max-pending", "1799"), "--max-pending 1799: from 1800 to 2419200 s (28 days)"),
        (("--max-pending", "2419201"), "--max-pending 2419201: from 1800"),
        (("--max-pending", "7200", "--instance-type", "ml.c7i.xlarge"), "has no effect on ml.c7i.xlarge"),
        (("--instance-type", "ml.g5.xlarge,ml.g5.xlarge"), "one type, or up to 5 different ones"),
        (("--instance-type", ",".join(f"ml.g5.{n}xlarge" for n in (2, 4, 8, 12, 16, 24))), "up to 5"),
        (("--instance-type", "ml.g5.xlarge,ml.inf2.xlarge"), "ml.inf2.xlarge is there for endpoints"),
        (
            ("--instance-type", "ml.g5.xlarge,ml.g6.xlarge", "--spot"),
            "several --instance-type and --spot exclude",
        ),
        (("--training-plan", PLAN, "--spot"), "--training-plan and --spot exclude"),
        (("--training-plan", "my-plan"), "TrainingPlanArn"),
        (
            ("--instance-type", "ml.g5.xlarge,ml.g6.xlarge", "--instance-usd-per-hour", "1"),
            "is the price of one --instance-type",
        ),
        (("--retry", "31"), "--retry 31: from 1 to 30"),
        (("--subnet", "subnet-1"), "--subnet and --security-group belong together"),
        (("--tag", "team"), "--tag 'team' is not NAME=VALUE"),
        (("--keep-alive", "21601"), "KeepAlivePeriodInSeconds is 21601, above 21600"),
        (("--environment", "A-B=1"), "Environment name 'A-B'"),
        (("--instance-type", "ml.p6e-gb200.36xlarge"), "has an Arm processor"),
        (("--region", "eu-west-1"), "the image is in us-east-1 and the calls go to eu-west-1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_call(aws, refused, arguments, said):
    assert said in refused(*TRAIN, *arguments)
    assert aws.requests == []


@pytest.mark.parametrize("given", ["AWS_DEFAULT_REGION", "the profile"])
def test_the_region_is_compared_however_it_is_given(aws, launch, tmp_path, given):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(
        "[default]\nregion = eu-west-1\n" if given == "the profile" else ""
    )
    changes = {"AWS_DEFAULT_REGION": "eu-west-1"} if given == "AWS_DEFAULT_REGION" else {}
    result = launch(*TRAIN, AWS_REGION=None, **changes)
    assert result.returncode == 1
    assert "the image is in us-east-1 and the calls go to eu-west-1" in result.stderr
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


def test_rules_outwards_that_efa_does_not_take_are_told(aws, launch):
    ec2 = aws.client("ec2")
    group = ec2.create_security_group(GroupName="open", Description="open to all outwards, as AWS makes it")[
        "GroupId"
    ]
    rule = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
    words = (*TRAIN, "--instance-count", "2", "--subnet", "subnet-1", "--no-wait", "--security-group", group)
    result = launch(*words)
    assert result.returncode == 0
    assert "EFA also needs a rule outwards" in result.stderr


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


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("ResourceLimitExceeded: The account-level service limit 'ml.p4d' is 0 Instances", "Service Quotas"),
        ("CapacityError: Unable to provision requested ML compute capacity", "another --instance-type"),
        ("ValidationException: Could not assume role arn:aws:iam::1:role/x", "trust sagemaker.amazonaws.com"),
        ("AccessDeniedException: not authorized to perform: iam:PassRole", "iam:PassRole"),
        ("ResourceInUse: Training job names must be unique", "the name is taken"),
        ("Unsupported manifest media type application/vnd.oci.image.index.v1+json", "make push"),
        ("ClientError: Artifact upload failed: Error 403", "a permission is missing"),
        ("did not pass the ping health check", "--startup-timeout"),
        ("MaxRuntimeExceeded", "--max-runtime"),
        ("PermanentRedirect: wrong region", "another region"),
        ("ThrottlingException: Rate exceeded", "in a minute"),
        ("The security token included in the request is expired", "aws sso login"),
    ],
)
def test_what_aws_says_has_a_cure(reason, advice):
    assert advice in cure(reason)


def test_what_nobody_knows_has_none():
    assert cure("InternalServerError") is None


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


SSO = """
[default]
region = us-east-1
sso_session = work
sso_account_id = 123456789012
sso_role_name = engineer
[sso-session work]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
"""


def test_an_sso_login_that_is_over_is_told_before_and_while_watching(aws, launch, tmp_path):
    """boto3 itself finds no keys then: AWS is not asked, and answers no ClientError."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(SSO)
    result = launch(*TRAIN, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert result.returncode == 1
    assert "your AWS login has expired: run `aws sso login`" in result.stderr
    assert aws.requests == []


def test_keys_that_a_program_gives_may_end_while_watching(aws, launch, tmp_path):
    """As with SSO, boto3 finds it out by itself: it asks the program before each call, which answers six times."""
    program, keys = tmp_path / "program", {"AccessKeyId": "testing", "SecretAccessKey": "testing"}
    keys |= {"Version": 1, "SessionToken": "t"}
    later = {"Expiration": "$(date -u -d '+60 seconds' +%Y-%m-%dT%H:%M:%SZ)"}
    program.write_text(
        f"#!/bin/sh\necho >> {tmp_path}/given\n"
        f"test $(wc -l < {tmp_path}/given) -gt 6 && exit 1\n"
        f"cat <<END\n{json.dumps(keys | later)}\nEND\n"
    )
    program.chmod(0o755)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(f"[default]\ncredential_process = {program}\n")
    aws.answers["DescribeTrainingJob"] = [{"TrainingJobStatus": "InProgress"}] * 1000
    result = launch(*TRAIN, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert result.returncode == 1
    assert "training job job-1 goes on" in result.stderr
    assert "launch.py status job-1 --wait" in result.stderr


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        ("ResourceLimitExceeded", "The account-level service limit is 0 Instances", "Service Quotas"),
        (
            "ValidationException",
            "Could not assume role arn:aws:iam::123456789012:role/none",
            "must exist and trust",
        ),
        ("AccessDeniedException", "not authorized to perform: iam:PassRole", "policy VERB"),
        ("ResourceInUse", "Training job names must be unique", "the name is taken"),
    ],
)
def test_what_aws_refuses_at_the_start_has_a_cure(aws, refused, code, message, advice):
    aws.answers["CreateTrainingJob"] = [{"status": 400, "__type": code, "message": message}]
    said = refused(*TRAIN)
    assert f"AWS refused CreateTrainingJob: {code}" in said
    assert advice in said


def test_throttling_at_the_start_is_tried_again(aws, launch, refused):
    throttled = {"status": 400, "__type": "ThrottlingException", "message": "Rate exceeded"}
    aws.answers["CreateTrainingJob"] = [throttled]
    assert launch(*TRAIN).returncode == 0
    aws.answers["CreateTrainingJob"] = [throttled] * 3
    assert "in a minute" in refused(*TRAIN)


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


def test_the_wait_for_a_stop_can_be_left_too(aws, launch, launch_process):
    assert launch(*TRAIN, "--no-wait").returncode == 0
    steps = [{"Status": "Stopping", "StartTime": 0}]
    stopping = {"TrainingJobStatus": "Stopping", "SecondaryStatusTransitions": steps}
    aws.answers["DescribeTrainingJob"] = [stopping] * 1000
    watcher = launch_process("stop", "job-1", "--wait", "--poll-seconds", "0.2")
    while "Stopping" not in watcher.stdout.readline():
        assert watcher.poll() is None
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert errors == (
        "launch: no longer watching; the stop of job-1 goes on. To come back: launch.py status job-1 --wait\n"
    )
