"""doctor.py as a user runs it, against moto_server."""

import time

import pytest

ROLE = "arn:aws:iam::123456789012:role/sagemaker"
JOB = {"Project": "normals", "JobName": "job-1", "Host": "algo-1"}


@pytest.fixture
def job(aws):
    """A described training job; call it to set its environment."""

    def make(**environment):
        aws.client("sagemaker").create_training_job(
            TrainingJobName="job-1",
            AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
            RoleArn=ROLE,
            OutputDataConfig={"S3OutputPath": "s3://bucket/models"},
            ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
        aws.answers["DescribeTrainingJob"] = [{"Environment": environment}]  # moto forgets it

    return make


def write_log(aws, *messages):
    logs, group = aws.client("logs"), "/aws/sagemaker/TrainingJobs"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="job-1/algo-1-1")
    logs.put_log_events(
        logGroupName=group,
        logStreamName="job-1/algo-1-1",
        logEvents=[{"timestamp": int(time.time() * 1000), "message": message} for message in messages],
    )


def test_a_job_that_is_well(aws, script, job):
    job(METRICS_PROJECT="normals")
    write_log(aws, "step=1; train_loss=3;", '{"_aws": {"Timestamp": 1}}')
    aws.publish("GpuUtilization", [50], JOB)
    result = script("doctor.py", "--job", "job-1")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("ok ") for line in lines)
    assert "1 in 1 series" in lines[-1]


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


def test_an_endpoint_that_does_not_know_its_name(aws, script):
    client = aws.client("sagemaker")
    client.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "image"})
    client.create_endpoint_config(
        EndpointConfigName="c",
        ProductionVariants=[
            {
                "VariantName": "v",
                "ModelName": "m",
                "InstanceType": "ml.g4dn.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
    )
    client.create_endpoint(EndpointName="door", EndpointConfigName="c")
    result = script("doctor.py", "--endpoint", "door")
    assert result.returncode == 1
    assert "set ENDPOINT_NAME=door and VARIANT_NAME" in result.stdout
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
