"""doctor.py as a user runs it, against moto_server."""

import time
from datetime import datetime, timedelta, timezone

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
JOB = {"Project": "normals", "JobName": "job-1", "Host": "algo-1"}


@pytest.fixture
def job(aws):
    """A described training job; call it to set its environment."""

    def make(instance_type="ml.g5.xlarge", described=None, **environment):
        aws.client("sagemaker").create_training_job(
            TrainingJobName="job-1",
            AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
            RoleArn=ROLE,
            OutputDataConfig={"S3OutputPath": "s3://bucket/models"},
            ResourceConfig={"InstanceType": instance_type, "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
        aws.answers["DescribeTrainingJob"] = [
            {"Environment": environment, **(described or {})}
        ]  # moto forgets it

    return make


TRAINING_JOBS = "/aws/sagemaker/TrainingJobs"
EMF = '{"_aws": {"Timestamp": 1}}'


def write_log(aws, *messages, group=TRAINING_JOBS, stream="job-1/algo-1-1", seconds=None):
    logs, milliseconds = aws.client("logs"), int((seconds or time.time()) * 1000)
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    logs.put_log_events(
        logGroupName=group,
        logStreamName=stream,
        logEvents=[{"timestamp": milliseconds, "message": message} for message in messages],
    )


def all_is_well(result, lines):
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line[:4] for line in result.stdout.splitlines()] == ["ok  "] * lines
    return result.stdout


def test_a_job_that_is_well(aws, script, job):
    job(METRICS_PROJECT="normals")
    write_log(aws, "step=1; train_loss=3;", EMF)
    aws.publish("GpuUtilization", [50], JOB)
    assert "1 in 1 series" in all_is_well(script("doctor.py", "--job", "job-1"), 5)


def test_a_job_of_another_day_is_looked_at_in_its_own_time(aws, script, job):
    ended = datetime.now(timezone.utc) - timedelta(hours=30)
    times = {"TrainingStartTime": ended.timestamp() - 9 * 3600, "TrainingEndTime": ended.timestamp()}
    job(described=times)
    write_log(aws, EMF, seconds=ended.timestamp() - 60)
    aws.publish("GpuUtilization", [50, 60], JOB, end=ended)
    text = all_is_well(script("doctor.py", "--job", "job-1"), 5)
    assert f"the newest of {ended:%Y-%m-%d %H:%M} UTC" in text

    job_before = ended - timedelta(days=20)
    times = {name: job_before.timestamp() for name in times}
    aws.answers["DescribeTrainingJob"] = [times]
    result = script("doctor.py", "--job", "job-1")
    assert "unknown   metrics: CloudWatch lists none that is 14 days old" in result.stdout


def test_a_job_whose_figures_are_its_projects_alone(aws, script, job):
    job(METRICS_LEVEL="fleet", METRICS_PROJECT="normals")
    write_log(aws, EMF)
    aws.publish("GpuUtilization", [50], {"Project": "normals", "Phase": "training"})
    text = all_is_well(script("doctor.py", "--job", "job-1"), 5)
    assert "metrics of all of normals (METRICS_LEVEL=fleet): 1 in 1 series" in text


@pytest.mark.parametrize(("instance_type", "is_well"), [("ml.c7i.xlarge", True), ("ml.g5.xlarge", False)])
def test_figures_of_gpus_are_missed_where_there_are_gpus(aws, script, job, instance_type, is_well):
    job(instance_type)
    write_log(aws, EMF)
    aws.publish("SamplesPerSecond", [5], JOB)
    result = script("doctor.py", "--job", "job-1")
    assert result.returncode == (not is_well), result.stdout + result.stderr
    assert ("none of a GPU" in result.stdout) == (not is_well)


def test_of_several_types_of_instance_the_one_that_it_has_counts(aws, script, job):
    job(described={"ResourceConfig": {"SelectedInstanceType": "ml.g5.xlarge", "InstanceCount": 1}})
    write_log(aws, EMF)
    aws.publish("SamplesPerSecond", [5], JOB)
    assert "none of a GPU" in script("doctor.py", "--job", "job-1").stdout


def test_a_job_that_cannot_reach_what_it_is_to_call(aws, script, job):
    job(METRICS_SINK="putmetricdata", described={"EnableNetworkIsolation": True})
    aws.publish("GpuUtilization", [50], JOB)
    result = script("doctor.py", "--job", "job-1")
    assert result.returncode == 1
    assert "not well  role: network isolation leaves no credentials and no network" in result.stdout
    assert "cure: use METRICS_SINK=emf, which needs neither" in result.stdout
    assert result.stdout.count("not well") == 1


def test_a_job_that_is_not_well_is_told_the_cures(aws, script, job):
    job(GPU_METRICS="off")
    write_log(aws, "step=1; train_loss=3;")
    aws.publish("EMFValidationErrors", [3], {"LogGroupName": "/aws/sagemaker/TrainingJobs"}, "AWS/Logs")
    result = script("doctor.py", "--job", "job-1")
    assert result.returncode == 1
    text = result.stdout
    assert text.count("not well") == 4
    assert text.count("cure:") == 4
    assert "leave GPU_METRICS out" in text
    assert "3 EMFValidationErrors" in text
    assert "no metric line in /aws/sagemaker/TrainingJobs" in text


@pytest.mark.parametrize(("decision", "says"), [("allowed", "may call"), ("implicitDeny", "may not call")])
def test_the_role_is_asked_about_where_it_matters(aws, script, job, decision, says):
    job(METRICS_SINK="putmetricdata")
    aws.xml_answers["SimulatePrincipalPolicy"] = SIMULATED.format(decision=decision)
    result = script("doctor.py", "--job", "job-1")
    assert f"{says} PutMetricData" in result.stdout


SIMULATED = """<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">
<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults><member>
<EvalActionName>cloudwatch:PutMetricData</EvalActionName><EvalResourceName>*</EvalResourceName>
<EvalDecision>{decision}</EvalDecision></member></EvaluationResults></SimulatePrincipalPolicyResult>
<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></SimulatePrincipalPolicyResponse>"""


@pytest.fixture
def endpoint(aws):
    """The endpoint `door` with a variant for each environment."""

    def make(**environments):
        client, host = aws.client("sagemaker"), {"InstanceType": "ml.g4dn.xlarge", "InitialInstanceCount": 1}
        for name, environment in environments.items():
            container = {"Image": "image", "Environment": environment}
            client.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        variants = [{"VariantName": name, "ModelName": name, **host} for name in environments]
        client.create_endpoint_config(EndpointConfigName="c", ProductionVariants=variants)
        client.create_endpoint(EndpointName="door", EndpointConfigName="c")

    return make


def test_an_endpoint_that_is_well(aws, script, endpoint):
    endpoint(**{name: {"ENDPOINT_NAME": "door", "VARIANT_NAME": name} for name in ("old", "new")})
    write_log(aws, EMF, group="/aws/sagemaker/Endpoints/door", stream="old/i-1")
    for name in ("old", "new"):
        aws.publish("GpuUtilization", [50], {"Project": "normals", "Endpoint": "door", "Variant": name})
    text = all_is_well(script("doctor.py", "--endpoint", "door"), 8)
    assert "metrics of old: 1 in 1 series" in text
    assert "metrics of new: 1 in 1 series" in text


def test_figures_of_gpus_are_missed_on_instance_pools_too(aws, script, endpoint):
    endpoint(v={"ENDPOINT_NAME": "door", "VARIANT_NAME": "v"})
    pools = [{"InstanceType": name, "Priority": 1} for name in ("ml.g5.xlarge", "ml.g6.xlarge")]
    variant = {"VariantName": "v", "ModelName": "v", "InstancePools": pools}
    aws.answers["DescribeEndpointConfig"] = [{"ProductionVariants": [variant]}]
    aws.publish("RequestsPerSecond", [5], {"Project": "normals", "Endpoint": "door", "Variant": "v"})
    assert "none of a GPU" in script("doctor.py", "--endpoint", "door").stdout


def test_each_variant_of_an_endpoint_is_looked_at(aws, script, endpoint):
    endpoint(old={"ENDPOINT_NAME": "door", "VARIANT_NAME": "old"}, new={"ENDPOINT_NAME": "door"})
    aws.publish("GpuUtilization", [50], {"Project": "normals", "Endpoint": "door", "Variant": "old"})
    result = script("doctor.py", "--endpoint", "door")
    assert result.returncode == 1
    assert "the container of new does not know its endpoint" in result.stdout
    assert "cure: set VARIANT_NAME=new, as" in result.stdout
    assert "ok        metrics of old" in result.stdout
    assert "not well  metrics of new: none in CloudWatch" in result.stdout


def test_an_endpoint_of_inference_components(aws, script):
    client = aws.client("sagemaker")
    environment = {"ENDPOINT_NAME": "door", "VARIANT_NAME": "v"}
    client.create_model(
        ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "image", "Environment": environment}
    )
    host = {"VariantName": "v", "InstanceType": "ml.g4dn.xlarge", "InitialInstanceCount": 1}
    with_model = [{**host, "ModelName": "m"}]  # moto makes none without
    client.create_endpoint_config(EndpointConfigName="c", ProductionVariants=with_model)
    aws.answers["DescribeEndpointConfig"] = [{"ProductionVariants": [host]}] * 2
    client.create_endpoint(EndpointName="door", EndpointConfigName="c")
    empty = script("doctor.py", "--endpoint", "door")
    assert empty.returncode == 1
    assert "not well  door has no inference component" in empty.stdout

    aws.answers["ListInferenceComponents"] = [
        {"status": 200, "InferenceComponents": [{"InferenceComponentName": "copy"}]}
    ]
    needs = {"NumberOfAcceleratorDevicesRequired": 1, "MinMemoryRequiredInMb": 1024}
    specification = {"ModelName": "m", "ComputeResourceRequirements": needs}
    aws.answers["DescribeInferenceComponent"] = [
        {"status": 200, "VariantName": "v", "Specification": specification}
    ]
    write_log(aws, EMF, group="/aws/sagemaker/InferenceComponents/copy", stream="v/i-1")
    aws.publish("GpuUtilization", [50], {"Project": "normals", "Endpoint": "door", "Variant": "v"})
    assert "metrics of copy: 1 in 1 series" in all_is_well(script("doctor.py", "--endpoint", "door"), 5)


def test_an_endpoint_that_does_not_know_its_name(aws, script, endpoint):
    endpoint(v={})
    result = script("doctor.py", "--endpoint", "door")
    assert result.returncode == 1
    assert "set ENDPOINT_NAME=door and VARIANT_NAME=v, as" in result.stdout
    assert "there is no group /aws/sagemaker/Endpoints/door" in result.stdout


def test_what_aws_refuses_is_unknown_and_not_a_crash(aws, script, job):
    job()
    aws.answers["FilterLogEvents"] = [{"status": 400, "__type": "AccessDeniedException", "message": "no"}]
    result = script("doctor.py", "--job", "job-1")
    assert "unknown   log: AWS refused FilterLogEvents (AccessDeniedException)" in result.stdout
    assert "allow your user FilterLogEvents" in result.stdout


def test_an_unknown_job_is_one_line(aws, script):
    result = script("doctor.py", "--job", "nobody")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("doctor: AWS refused DescribeTrainingJob")
