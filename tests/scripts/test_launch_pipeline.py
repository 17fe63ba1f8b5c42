"""launch.py process and pipeline: the requests of their steps against boto3's own descriptions, and against moto."""

import json

import pytest

from launching.calls import Call
from launching.limits import check_limits

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com/surface-normals"
IMAGE, SERVE_IMAGE = (f"{HOST}-{role}@sha256:{'0' * 64}" for role in ("train", "serve"))
PIPELINE = (
    *("pipeline", "--role", ROLE, "--image", IMAGE, "--serve-image", SERVE_IMAGE, "--poll-seconds", "0.05"),
    *("--data", "s3://bucket/data/train", "--validation", "s3://bucket/data/validation"),
    *("--output", "s3://bucket/models", "--name", "normals", "--maximum-error", "15"),
)
PROCESS = ("process", "--role", ROLE, "--image", IMAGE, "--poll-seconds", "0.05", "--name", "job-1")
PROCESS += ("--data", "s3://bucket/data", "--output", "s3://bucket/out")


@pytest.fixture
def bucket(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    return s3


def definition(launch, *arguments):
    result = launch(*PIPELINE, *arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    calls = {call["method"]: call["arguments"] for call in json.loads(result.stdout)}
    if "create_state_machine" in calls:
        return json.loads(calls["create_state_machine"]["definition"])
    return json.loads(calls["create_pipeline"]["PipelineDefinition"])


def resolved(value):
    """A step's request as SageMaker makes it: what is looked up at run time is some S3 place."""
    if isinstance(value, dict):
        if value.keys() & {"Get", "Std:Join", "Std:JsonGet"}:
            return "s3://bucket/some/place"
        return {
            key.removesuffix(".$"): "s3://bucket/some/place" if key.endswith(".$") else resolved(member)
            for key, member in value.items()
        }
    return [resolved(item) for item in value] if isinstance(value, list) else value


def test_every_step_of_the_pipeline_is_a_request_that_sagemaker_takes(launch):
    steps = {step["Name"]: step for step in definition(launch, "--spot")["Steps"]}
    [register] = steps["GoodEnough"]["Arguments"]["IfSteps"]
    for step, method, name in (
        (steps["Check"], "create_processing_job", "ProcessingJobName"),
        (steps["Train"], "create_training_job", "TrainingJobName"),
        (steps["Evaluate"], "create_processing_job", "ProcessingJobName"),
        (register, "create_model_package", None),
    ):
        arguments = resolved(step["Arguments"]) | ({name: "a-job"} if name else {})
        check_limits([Call("sagemaker", method, arguments)], "us-east-1")
    assert steps["Train"]["DependsOn"] == ["Check"]
    own = {"Get": "Execution.PipelineExecutionId"}
    assert own in steps["Train"]["Arguments"]["CheckpointConfig"]["S3Uri"]["Std:Join"]["Values"]


def test_the_condition_reads_what_the_evaluation_writes(launch):
    body = definition(launch)
    steps = {step["Name"]: step for step in body["Steps"]}
    [condition] = steps["GoodEnough"]["Arguments"]["Conditions"]
    assert condition["LeftValue"]["Std:JsonGet"]["Path"] == "regression_metrics.mean_angular_error.value"
    assert {row["Name"]: row["DefaultValue"] for row in body["Parameters"]}["MaximumError"] == 15
    entrypoint = steps["Evaluate"]["Arguments"]["AppSpecification"]["ContainerEntrypoint"]
    assert entrypoint == ["python3", "-m", "training.processing", "/opt/ml/processing/code/evaluate.py"]


def test_the_pipeline_is_made_then_brought_up_to_date_then_removed(aws, launch, bucket):
    first = launch(*PIPELINE)
    assert first.returncode == 0, first.stderr
    assert "pipeline normals is made" in first.stdout
    keys = {item["Key"] for item in bucket.list_objects_v2(Bucket="bucket", MaxKeys=100)["Contents"]}
    assert keys == {f"models/normals/code/{name}" for name in ("check_dataset.py", "evaluate.py")}
    second = launch(*PIPELINE, "--maximum-error", "12")
    assert "brought up to date" in second.stdout, second.stderr
    described = aws.client("sagemaker").describe_pipeline(PipelineName="normals")
    assert '"DefaultValue": 12' in described["PipelineDefinition"]
    aws.answers["ListTags"] = [{"Tags": [{"Key": "launched-as", "Value": "normals"}]}]  # moto forgets them
    assert launch("delete", "normals").returncode == 0
    assert not aws.client("sagemaker").list_pipelines()["PipelineSummaries"]


def test_a_run_is_watched_step_by_step_and_a_failure_named(aws, launch, bucket):
    step = {"StepName": "Check", "StepStatus": "Failed", "FailureReason": "REFUSED", "StartTime": 0}
    aws.answers["DescribePipelineExecution"] = [
        {"status": 200, "PipelineExecutionStatus": "Executing"},
        {"status": 200, "PipelineExecutionStatus": "Failed", "FailureReason": "step Check failed"},
    ]
    aws.answers["ListPipelineExecutionSteps"] = [
        {"status": 200, "PipelineExecutionSteps": [step | {"StepStatus": "Executing", "FailureReason": ""}]},
        {"status": 200, "PipelineExecutionSteps": [step]},
    ]
    result = launch(*PIPELINE, "--start")
    assert result.returncode == 1
    told = [line.partition(" ")[2] for line in result.stdout.splitlines()]
    assert told[-4:] == ["Check Executing", "Executing", "Check Failed REFUSED", "Failed"]
    assert "the run of pipeline normals is Failed: step Check failed" in result.stderr


def test_a_run_that_succeeds_tells_the_command_that_deploys_after_the_approval(aws, launch, bucket):
    aws.answers["DescribePipelineExecution"] = [{"status": 200, "PipelineExecutionStatus": "Succeeded"}]
    aws.answers["ListPipelineExecutionSteps"] = [{"status": 200, "PipelineExecutionSteps": []}]
    result = launch(*PIPELINE, "--start", "--group", "rooms")
    assert result.returncode == 0, result.stderr
    assert "next: launch.py deploy --package rooms --when-approved" in result.stdout


def test_every_state_of_the_state_machine_is_a_request_that_sagemaker_takes(aws, launch, bucket):
    machine = definition(launch, "--step-functions", "--spot")
    operations = {
        "createProcessingJob.sync": "create_processing_job",
        "createTrainingJob.sync": "create_training_job",
        "createModelPackage": "create_model_package",
        "describeModelPackage": "describe_model_package",
        "createModel": "create_model",
        "createEndpointConfig": "create_endpoint_config",
        "createEndpoint": "create_endpoint",
        "describeEndpoint": "describe_endpoint",
    }
    checked = set()
    for name, state in machine["States"].items():
        operation = state.get("Resource", "").rpartition(":")[2]
        if operation in operations:
            arguments = {
                key: "a-name" if key.endswith(("Name", "JobName")) else value
                for key, value in resolved(state["Parameters"]).items()
            }
            for row in arguments.get("ProductionVariants", []):
                row["ModelName"] = "a-name"
            if name == "CreateModel":
                arguments["PrimaryContainer"]["ModelPackageName"] = "a-name"
            check_limits([Call("sagemaker", operations[operation], arguments)], "us-east-1")
            checked.add(operation)
    assert checked == set(operations)
    reached, todo = set(), [machine["StartAt"]]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            row = machine["States"][state]
            todo += [row[key] for key in ("Next", "Default") if key in row]
            todo += [choice["Next"] for choice in row.get("Choices", [])]
    assert reached == set(machine["States"])
    made = launch(*PIPELINE, "--step-functions")
    assert made.returncode == 0, made.stderr
    assert "brought up to date" in launch(*PIPELINE, "--step-functions", "--maximum-error", "9").stdout


@pytest.mark.parametrize("how", [(), ("--step-functions",)])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--environment", "A-B=1"), "step Train: CreateTrainingJob: Environment name 'A-B'"),
        (
            ("--evaluate-instance-type", "ml.p4d.24xlarge"),
            "step Evaluate: CreateProcessingJob: ProcessingResources",
        ),
        (("--instance-type", "ml.inf2.xlarge"), "step Train: CreateTrainingJob: ResourceConfig.InstanceType"),
        (("--instance-type", "ml.c7g.xlarge"), "has an Arm processor"),
        (("--group", "bad_name!"), "ModelPackageGroupName: 'bad_name!'"),
        (("--image", IMAGE.replace("us-east-1", "eu-west-1")), "the image is in eu-west-1"),
    ],
)
def test_what_a_step_would_be_refused_for_is_refused_before_any_call(aws, refused, how, arguments, said):
    assert said in refused(*PIPELINE, *how, *arguments)
    assert aws.requests == []


def test_a_big_training_instance_is_none_for_the_evaluation(launch):
    steps = {
        step["Name"]: step["Arguments"]
        for step in definition(launch, "--instance-type", "ml.p4d.24xlarge")["Steps"]
    }
    assert steps["Train"]["ResourceConfig"]["InstanceType"] == "ml.p4d.24xlarge"
    assert steps["Evaluate"]["ProcessingResources"]["ClusterConfig"]["InstanceType"] == "ml.g5.xlarge"


def test_the_names_of_a_machines_run_fit(aws, launch, refused):
    """A run's jobs and its endpoint are named after it, in at most 63 characters."""
    machine = (*PIPELINE, "--step-functions", "--name")
    assert "Name has 64 characters, the limit is 63" in refused(*machine, "n" * 39)
    assert aws.requests == []
    assert launch(*machine, "n" * 38, "--dry-run").returncode == 0


def test_what_an_approved_model_becomes_is_known_to_delete_and_in_its_metrics(launch):
    own = ("--kms-key", "k", "--volume-kms-key", "v", "--subnet", "subnet-1", "--security-group", "sg-1")
    states = definition(launch, "--step-functions", "--network-isolation", *own)["States"]
    endpoint = "States.Format('{}-endpoint', $$.Execution.Name)"
    for name in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint"):
        tags = states[name]["Parameters"]["Tags"]
        assert {"Key": "launched-as", "Value.$": endpoint} in tags
        assert {"Key": "project", "Value": "surface-normals"} in tags
    model = states["CreateModel"]["Parameters"]
    assert model["PrimaryContainer"]["Environment"]["ENDPOINT_NAME.$"] == endpoint
    assert model["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert model["EnableNetworkIsolation"] is True
    assert states["CreateEndpointConfig"]["Parameters"]["KmsKeyId"] == "v"
    for name in ("Check", "Evaluate"):
        job = states[name]["Parameters"]
        assert job["NetworkConfig"]["EnableNetworkIsolation"] is True
        assert job["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == "v"
        assert job["ProcessingOutputConfig"]["KmsKeyId"] == "k"


def test_the_pipeline_may_have_a_role_of_its_own(launch):
    own = "arn:aws:iam::123456789012:role/pipeline"
    for how, key in ((), "RoleArn"), (("--step-functions",), "roleArn"):
        calls = json.loads(launch(*PIPELINE, *how, "--pipeline-role", own, "--dry-run").stdout)
        assert calls[-1]["arguments"][key] == own
        body = calls[-1]["arguments"].get("definition") or calls[-1]["arguments"]["PipelineDefinition"]
        assert own not in body
        assert ROLE in body


def test_a_dry_run_shows_an_update_where_there_is_something_to_update(launch, bucket):
    for how, what in ((), "pipeline"), (("--step-functions",), "state_machine"):
        for verb in ("create", "update"):
            shown = [call["method"] for call in json.loads(launch(*PIPELINE, *how, "--dry-run").stdout)]
            assert shown[-1] == f"{verb}_{what}"
            assert launch(*PIPELINE, *how).returncode == 0


PASSING = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}
MACHINE = (*PIPELINE, "--step-functions", "--start")
PACKAGE = "arn:aws:sagemaker:us-east-1:123456789012:model-package/normals/1"


def entered(*states):
    state_input = json.dumps({"Package": {"ModelPackageArn": PACKAGE}})
    event = {"timestamp": 0, "type": "TaskStateEntered", "id": 1}
    details = [{"name": name, "input": state_input} for name in states]
    events = [event | {"stateEnteredEventDetails": each} for each in details]
    return {"status": 200, "events": events}


def test_a_state_machine_is_watched_until_somebody_must_approve(aws, launch, bucket):
    """Its wait is a loop, of which each state is told once."""
    history = ["Check", "Train", "Register", "WaitForApproval"]
    aws.answers["GetExecutionHistory"] = [
        entered(*history[:2]),
        entered(*history, "LookAtApproval", "Approved", "WaitForApproval"),
    ]
    result = launch(*MACHINE)
    assert result.returncode == 0, result.stderr
    told = [line.partition(" ")[2] for line in result.stdout.splitlines()]
    assert [told.count(step) for step in (*history, "LookAtApproval")] == [1] * 5
    assert f"--model-package-arn {PACKAGE}" in result.stdout

    aws.answers["GetExecutionHistory"] = [entered(*history)]
    assert f"is RUNNING, waits for the approval of {PACKAGE}" in launch("status", "normals").stdout


def test_the_failure_of_a_state_machine_is_told(aws, launch, bucket):
    aws.answers["GetExecutionHistory"] = [entered("Check", "TooManyErrors")] * 2
    failed = '"status": "FAILED", "error": "TooManyErrors", "cause": "above 15 degrees"'
    aws.rewrites['"status": "RUNNING"'] = failed
    assert "is FAILED: TooManyErrors: above 15 degrees" in launch(*MACHINE).stderr


def test_status_without_a_name_lists_runs_too(aws, launch, bucket):
    for how in ((), ("--step-functions",)):
        assert launch(*PIPELINE, *how, "--start", "--no-wait").returncode == 0
    executing = {"PipelineExecutionArn": "arn:aws:sagemaker:us-east-1:1:pipeline/normals/execution/a"}
    executing |= {"StartTime": 0, "PipelineExecutionStatus": "Executing"}
    aws.answers["ListPipelineExecutions"] = [{"status": 200, "PipelineExecutionSummaries": [executing]}]
    component = {"InferenceComponentName": "copy", "InferenceComponentStatus": "InService"}
    aws.answers["ListInferenceComponents"] = [{"status": 200, "InferenceComponents": [component]}]
    others = aws.client("stepfunctions")
    machine = others.create_state_machine(name="others", definition=json.dumps(PASSING), roleArn=ROLE)
    others.start_execution(stateMachineArn=machine["stateMachineArn"])
    result = launch("status")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["inference", "component", "copy", "InService"],
        ["pipeline", "normals", "Executing"],
        ["state", "machine", "normals", "RUNNING"],
    ], result.stderr
    shown = [call["method"] for call in json.loads(launch("status", "--dry-run").stdout)]
    assert {"list_inference_components", "list_pipelines", "list_state_machines"} < set(shown)


def test_runs_that_have_ended_do_not_run(aws, launch, bucket):
    assert launch(*PIPELINE, "--start", "--no-wait").returncode == 0
    ended = {"PipelineExecutionArn": "a", "StartTime": 0, "PipelineExecutionStatus": "Succeeded"}
    aws.answers["ListPipelineExecutions"] = [{"status": 200, "PipelineExecutionSummaries": [ended]}]
    assert launch("status").stdout == "nothing runs\n"


@pytest.mark.parametrize("how", [(), ("--step-functions",)])
def test_status_is_the_way_back_to_a_run_and_stop_its_end(aws, launch, refused, bucket, how):
    aws.answers["GetExecutionHistory"] = [entered("Check")] * 9
    executing = {"status": 200, "PipelineExecutionStatus": "Executing"}
    aws.answers["DescribePipelineExecution"] = [executing] * 2
    aws.answers["ListPipelineExecutionSteps"] = [{"status": 200, "PipelineExecutionSteps": []}] * 9
    aws.answers["StopPipelineExecution"] = [{"status": 200}]
    assert (
        "to come back: launch.py status normals --wait"
        in launch(*PIPELINE, *how, "--start", "--no-wait").stdout
    )
    assert f"normals is {'RUNNING' if how else 'Executing'}" in launch("status", "normals").stdout
    assert "is asked to stop" in launch("stop", "normals").stdout
    stopped = "StopExecution" if how else "StopPipelineExecution"
    assert stopped in aws.operations
    aws.answers["DescribePipelineExecution"] = [{"status": 200, "PipelineExecutionStatus": "Stopped"}]
    assert "no job normals runs" in refused("stop", "normals")


def test_a_pipeline_needs_something_to_measure_on(refused):
    assert "--validation" in refused(*(word for word in PIPELINE if "alidation" not in word))


# process


def test_process_sends_its_script_and_is_watched(aws, launch, bucket):
    result = launch(*PROCESS[:1], "evaluate", *PROCESS[1:], "--model-data", "s3://bucket/m/model.tar.gz")
    assert result.returncode == 0, result.stderr
    assert bucket.get_object(Bucket="bucket", Key="out/job-1/code/evaluate.py")["ContentLength"] > 500
    job = aws.client("sagemaker").describe_processing_job(ProcessingJobName="job-1")
    assert job["AppSpecification"]["ContainerEntrypoint"] == [
        "python3",
        "-m",
        "training.processing",
        "/opt/ml/processing/code/evaluate.py",
    ]
    assert job["AppSpecification"]["ContainerArguments"] == [
        f"/opt/ml/processing/{name}" for name in ("model", "data", "output")
    ]
    places = {row["InputName"]: row["S3Input"]["S3Uri"] for row in job["ProcessingInputs"]}
    assert places["model"] == "s3://bucket/m/model.tar.gz"
    assert "written: s3://bucket/out/job-1/output" in result.stdout


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("evaluate", (), "give --job or --model-data"),
        ("convert", (), "give --depth and --camera"),
        ("check", ("--max-runtime", "777601"), "--max-runtime 777601: from 1 to 777600"),
    ],
)
def test_process_refuses_before_any_call(aws, refused, task, arguments, said):
    assert said in refused(PROCESS[0], task, *PROCESS[1:], *arguments)
    assert aws.requests == []
