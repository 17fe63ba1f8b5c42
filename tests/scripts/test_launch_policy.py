"""launch.py policy: what each verb does at AWS is in its policy, and what is in its policy is an action of AWS."""

import json
import re
from fnmatch import fnmatchcase

import botocore.session
import pytest
from botocore import xform_name
from botocore.validate import validate_parameters

import launch as launch_script
import push

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals"
IMAGE = ("--image", f"{HOST}@sha256:{'0' * 64}")
POLL = ("--poll-seconds", "0.02")
DATA = ("--role", ROLE, "--data", "s3://bucket/data", "--output", "s3://bucket/out", *IMAGE, *POLL)
SERVE = ("--role", ROLE, *IMAGE, *POLL, "--instance-type", "ml.g4dn.xlarge")
DEPLOY = ("deploy", *SERVE, "--model-data", "s3://b/m.tar.gz", "--name", "e")
TRAIN = ("train", *DATA, "--name", "job-1")
PIPELINE = ("pipeline", *DATA, "--validation", "s3://bucket/v", "--serve-image", IMAGE[1], "--name", "p")
MACHINE = (*PIPELINE, "--step-functions", "--start", "--no-wait")
# What a verb needs to be there before it, and itself.
COMMANDS = {
    "upload": [("upload", "files", "s3://bucket/x")],
    "download": [("upload", "files", "s3://bucket/x"), ("download", "s3://bucket/x", "there")],
    "train": [TRAIN],
    "tune": [
        (
            *("tune", *DATA, "--name", "search", "--pretrained", "s3://bucket/w"),
            *("--best", "e", "--best-image", IMAGE[1], "--best-instance-type", "ml.g4dn.xlarge"),
        )
    ],
    "deploy": [
        TRAIN,
        ("deploy", *SERVE, "--job", "job-1", "--name", "e", "--async", "s3://bucket/a", "--autoscale", "0:1"),
    ],
    "update": [DEPLOY, ("update", *SERVE, "--model-data", "s3://b/n.tar.gz", "--endpoint", "e")],
    "shift": [
        ("deploy", *SERVE, "--variant", "a=s3://b/m.tar.gz", "--variant", "b=s3://b/n.tar.gz", "--name", "e"),
        ("shift", "--endpoint", "e", "--to", "b", "--step-seconds", "0", *POLL),
    ],
    "transform": [
        (
            *("transform", *SERVE, "--model-data", "s3://b/m.tar.gz"),
            *("--input", "s3://b/i", "--output", "s3://b/o"),
        )
    ],
    "invoke": [("invoke", "--endpoint", "e", "photo.jpg")],
    "process": [("process", "check", *DATA)],
    "register": [TRAIN, ("register", "--job", "job-1", *IMAGE)],
    "pipeline": [PIPELINE],
    "status": [TRAIN, MACHINE, ("status", "job-1"), ("status",), ("status", "p")],
    "logs": [TRAIN, ("logs", "job-1")],
    "stop": [MACHINE, ("stop", "p")],
    "delete": [(*DEPLOY, "--autoscale", "1:2"), ("delete", "e")],
    "cost": [DEPLOY, ("cost",)],
}
MORE = {
    "pipeline, brought up to date and run": ("pipeline", [PIPELINE, (*PIPELINE, "--start", "--no-wait")]),
    "pipeline as a state machine": ("pipeline", [MACHINE]),
    "pipeline as a state machine, again": ("pipeline", [MACHINE, MACHINE[:-2]]),
    "delete of a state machine and a group": (
        "delete",
        [MACHINE, ("delete", "p"), ("delete", "surface-normals")],
    ),
    "delete after update": (
        "delete",
        [
            DEPLOY,
            ("update", *SERVE, "--model-data", "s3://b/n.tar.gz", "--endpoint", "e", "--no-wait"),
            ("delete", "e"),
        ],
    ),
    "update that is refused": ("update", COMMANDS["update"]),
    "status of all": ("status", [PIPELINE, MACHINE, ("status",)]),
    "stop of a job": ("stop", [TRAIN, ("stop", "job-1")]),
    "invoke --async": ("invoke", [("invoke", "--endpoint", "e", "--async", "s3://bucket/in", "photo.jpg")]),
    "train on several instances in a VPC": (
        "train",
        [(*TRAIN, "--instance-count", "2", "--subnet", "subnet-1", "--security-group", "GROUP")],
    ),
}
CASES = {verb: (verb, commands) for verb, commands in COMMANDS.items()} | MORE
THOSE_WITH_RESOURCES = r"(?:Create|Delete|Describe|Stop|Update|Start)(\w+)"
OF = {"EndpointWeightsAndCapacities": "Endpoint", "PipelineExecution": "Pipeline"}


def actions(policy):
    return {action for row in policy["Statement"] for action in row["Action"]}


def resource_of(action, operation, body):
    """The ARN that a request is about, where it can be told from it."""
    service, _, what = action.partition(":")
    if service == "s3":
        bucket, _, key = operation.split(" ")[1].partition("?")[0].lstrip("/").partition("/")
        return f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
    match = re.fullmatch(THOSE_WITH_RESOURCES, what)
    if service != "sagemaker" or not match:
        return None
    noun = OF.get(match[1], match[1])
    name = json.loads(body).get(f"{noun}Name")
    kind = re.sub(r"(?<!^)(?=[A-Z])", "-", noun).lower()
    return f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/{name}" if name and "arn:" not in name else None


def allows(policy, action, resource):
    for row in policy["Statement"]:
        if action in row["Action"]:
            patterns = ["*"] if row["Resource"] == "*" else row["Resource"]
            if resource is None or any(fnmatchcase(resource, pattern) for pattern in patterns):
                return True
    return False


def printed(launch, of, *arguments):
    result = launch(
        *("policy", of, "--account", "123456789012", "--region", "us-east-1", "--bucket", "bucket"),
        *arguments,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def prepare(aws, tmp_path, case):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    (tmp_path / "photo.jpg").write_bytes(b"a picture")
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="answer", Body=b"png", ContentType="image/png")
    aws.answers["POST /endpoints/e/invocations"] = [b"\x89PNG"]
    places = {"x-amzn-sagemaker-outputlocation": "s3://bucket/answer"}
    aws.answers["POST /endpoints/e/async-invocations"] = [{"status": 202, "headers": places}]
    aws.answers["DescribeHyperParameterTuningJob"] = [{"HyperParameterTuningJobStatus": "Completed"}]
    trial = {
        "TrainingJobName": "t",
        "TrainingJobArn": "t",
        "TrainingJobStatus": "Completed",
        "CreationTime": 0,
    }
    trial |= {
        "TunedHyperParameters": {},
        "FinalHyperParameterTuningJobObjectiveMetric": {"MetricName": "m", "Value": 1},
    }
    aws.answers["ListTrainingJobsForHyperParameterTuningJob"] = [
        {"status": 200, "TrainingJobSummaries": [trial]}
    ]
    if case == "tune":
        model = {"ModelArtifacts": {"S3ModelArtifacts": "s3://b/t.tar.gz"}}
        aws.answers["DescribeTrainingJob"] = [{"status": 200, "TrainingJobStatus": "Completed", **model}]
    if case == "stop of a job":
        aws.answers["DescribeTrainingJob"] = [{}, {"TrainingJobStatus": "InProgress"}]
    if case == "update that is refused":
        aws.answers["UpdateEndpoint"] = [{"status": 400, "__type": "ValidationException", "message": "no"}]


@pytest.mark.parametrize("case", CASES)
def test_the_policy_allows_what_the_verb_does(aws, launch, tmp_path, case):
    verb, (*before, command) = CASES[case]
    prepare(aws, tmp_path, case)
    group = aws.client("ec2").create_security_group(GroupName="g", Description="g")["GroupId"]
    for words in before:
        assert launch(*words).returncode == 0
    aws.actions.clear()
    result = launch(*(group if word == "GROUP" else word for word in command))
    expected = ("has no log yet", "went back", "AWS refused UpdateEndpoint", "lets its members speak")
    assert result.returncode == 0 or any(words in result.stderr for words in expected), result.stderr
    policy = printed(launch, verb)
    done = {(action, resource_of(action, operation, body)) for action, operation, body in aws.actions}
    assert done
    assert not [each for each in done if not allows(policy, *each)]


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_dry_run_prints_requests_that_boto3_takes_and_changes_nothing(aws, launch, tmp_path, verb):
    *before, command = COMMANDS[verb]
    prepare(aws, tmp_path, verb)
    for words in before:
        assert launch(*words).returncode == 0
    aws.actions.clear()
    result = launch(*command, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("[")
    session = botocore.session.get_session()
    for call in json.loads(result.stdout):
        if call["method"] != "upload_file":  # boto3's own, of several operations
            service = session.get_service_model(call["client"])
            [operation] = [name for name in service.operation_names if xform_name(name) == call["method"]]
            shape = service.operation_model(operation).input_shape
            tokens = dict.fromkeys(service.operation_model(operation).idempotent_members, "0" * 32)
            validate_parameters(tokens | call["arguments"], shape)
    changing = [action for action, _, _ in aws.actions if not re.search(":(Describe|List|Get)", action)]
    assert changing == []


def test_every_verb_that_asks_aws_is_among_them():
    assert {verb for verb, _ in CASES.values()} == {*launch_script.VERBS} - {"policy"}


def test_push_may_make_its_repositories(aws, environment, launch, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    push.open_ecr("us-east-1", ["surface-normals-train"])
    policy = printed(launch, "push")
    assert {action for action, _, _ in aws.actions} >= {"ecr:CreateRepository", "ecr:GetAuthorizationToken"}
    assert not [action for action, _, _ in aws.actions if not allows(policy, action, None)]


@pytest.mark.parametrize("role", ["execution-role", "pipeline-role"])
def test_the_printed_policies_make_a_role(aws, launch, role):
    """As in the README: iam create-role and put-role-policy."""
    iam = aws.client("iam")
    trust, policy = printed(launch, f"{role}-trust"), printed(launch, role)
    iam.create_role(RoleName="normals", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="normals", PolicyName="normals", PolicyDocument=json.dumps(policy))
    assert iam.get_role_policy(RoleName="normals", PolicyName="normals")["PolicyDocument"] == policy


def test_the_pipelines_role_may_do_what_its_steps_ask_for(launch):
    """Each task of the state machine, and each step of the pipeline."""
    policy = printed(launch, "pipeline-role")
    calls = json.loads(launch(*PIPELINE, "--step-functions", "--dry-run").stdout)
    states = json.loads(calls[-1]["arguments"]["definition"])["States"].values()
    tasks = [
        state["Resource"].removesuffix(".sync").split(":")[-2:] for state in states if "Resource" in state
    ]
    asked = {f"{service}:{operation[0].upper()}{operation[1:]}" for service, operation in tasks}
    calls = json.loads(launch(*PIPELINE, "--dry-run").stdout)
    steps = {row["Type"] for row in json.loads(calls[-1]["arguments"]["PipelineDefinition"])["Steps"]}
    assert steps == {"Processing", "Training", "Condition"}
    asked |= {"sagemaker:CreateProcessingJob", "sagemaker:CreateTrainingJob", "sagemaker:CreateModelPackage"}
    # Those that wait (.sync) hear of the end by a rule of EventBridge, and stop what they wait for.
    asked |= {"events:PutRule", "events:PutTargets", "sagemaker:StopTrainingJob", "iam:PassRole"}
    assert asked <= actions(policy)
    trusted = printed(launch, "pipeline-role-trust")["Statement"][0]["Principal"]["Service"]
    assert set(trusted) == {"sagemaker.amazonaws.com", "states.amazonaws.com"}


def test_both_roles_of_a_pipeline_may_be_handed_over(launch):
    own = "arn:aws:iam::123456789012:role/pipeline"
    policy = printed(launch, "pipeline", "--role", ROLE, "--pipeline-role", own)
    [row] = [row for row in policy["Statement"] if "iam:PassRole" in row["Action"]]
    assert row["Resource"] == [ROLE, own]


def test_an_endpoint_for_a_while_asks_for_its_deletion_too(aws, launch, refused):
    aws.actions.clear()
    assert launch(*DEPLOY, "--autoscale", "1:2", "--delete-after", "1s").returncode == 0
    policy = printed(launch, "deploy", "--delete-after")
    done = {(action, resource_of(action, operation, body)) for action, operation, body in aws.actions}
    assert not [each for each in done if not allows(policy, *each)]
    assert "sagemaker:ListTags" not in actions(printed(launch, "deploy"))
    assert "only deploy has that" in refused("policy", "train", "--delete-after")


def test_keys_and_a_vpc_ask_for_more(launch, refused):
    key = "arn:aws:kms:us-east-1:123456789012:key/k"
    plain, more = (
        printed(launch, "execution-role"),
        printed(launch, "execution-role", "--kms-key", key, "--vpc"),
    )
    added = [row for row in more["Statement"] if row not in plain["Statement"]]
    assert {"kms:GenerateDataKey", "kms:CreateGrant", "ec2:CreateNetworkInterface"} <= actions(
        {"Statement": added}
    )
    assert all(row["Resource"] == [key] for row in added if "kms" in row["Action"][0])
    topic = "arn:aws:sns:us-east-1:123456789012:done"
    [row] = [
        row
        for row in printed(launch, "execution-role", "--topic", topic)["Statement"]
        if row not in plain["Statement"]
    ]
    assert (row["Action"], row["Resource"]) == (["sns:Publish"], [topic])
    shell = actions(printed(launch, "execution-role", "--ssm-access")) - actions(plain)
    assert "ssmmessages:OpenDataChannel" in shell
    assert {action.partition(":")[0] for action in shell} == {"ssmmessages"}
    for option in (("--vpc",), ("--topic", topic), ("--ssm-access",)):
        assert "only the execution role" in refused("policy", "train", *option)
    assert "names a key by its ARN" in refused("policy", "train", "--kms-key", "alias/data")
    assert "who may take the role" in refused("policy", "execution-role-trust", "--kms-key", key)


@pytest.mark.parametrize(
    "verb", sorted({*launch_script.VERBS, "execution-role", "pipeline-role", "push"} - {"policy"})
)
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
