"""dashboard.py, show_metrics.py and doctor.py as a user runs them, against moto_server."""

import json
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import show_metrics
from metrics.catalogue import METRICS
from metrics.cloudwatch import NAMESPACE

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ROLE = "arn:aws:iam::123456789012:role/sagemaker"
JOB = {"Project": "normals", "JobName": "job-1", "Host": "algo-1"}


@pytest.fixture
def script(environment, tmp_path):
    """Run a script as a user does."""

    def run(name, *arguments, **changes):
        variables = {key: value for key, value in (environment | changes).items() if value is not None}
        command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def put(aws, metric, values, dimensions, namespace=NAMESPACE):
    """A value for each of the last minutes, the last one now."""
    now = datetime.now(timezone.utc)
    data = [
        {
            "MetricName": metric,
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Timestamp": now - timedelta(minutes=len(values) - 1 - number),
            "Value": value,
        }
        for number, value in enumerate(values)
    ]
    aws.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)


# dashboard


def test_a_dashboard_and_its_alarms_are_made_and_deleted(aws, script):
    made = script(
        "dashboard.py", "--project", "normals", "--endpoint", "door", "--topic", "arn:aws:sns:x:1:t"
    )
    assert made.returncode == 0, made.stderr
    client = aws.client("cloudwatch")
    [entry] = client.list_dashboards()["DashboardEntries"]
    assert entry["DashboardName"] == "normals-door"
    body = json.loads(client.get_dashboard(DashboardName="normals-door")["DashboardBody"])
    assert {widget["properties"].get("region") for widget in body["widgets"]} == {None, "us-east-1"}
    alarms = client.describe_alarms()["MetricAlarms"]
    printed = json.loads(
        script("dashboard.py", "--project", "normals", "--endpoint", "door", "--print").stdout
    )
    assert {alarm["AlarmName"] for alarm in alarms} == {a["AlarmName"] for a in printed["alarms"]}
    assert all(alarm["AlarmActions"] == ["arn:aws:sns:x:1:t"] for alarm in alarms)
    silence = next(alarm for alarm in alarms if "silence" in alarm["AlarmName"])
    assert (silence["TreatMissingData"], silence["Statistic"]) == ("breaching", "SampleCount")

    client.put_metric_alarm(
        AlarmName="another's", MetricName="x", Namespace="y", Statistic="Sum", Period=60, Threshold=1,
        EvaluationPeriods=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    deleted = script("dashboard.py", "--project", "normals", "--endpoint", "door", "--delete")
    assert deleted.returncode == 0, deleted.stderr
    assert client.list_dashboards()["DashboardEntries"] == []
    assert [alarm["AlarmName"] for alarm in client.describe_alarms()["MetricAlarms"]] == ["another's"]


@pytest.mark.parametrize("which", [(), ("--endpoint", "door"), ("--job", "job-1")])
def test_what_is_printed_needs_no_account_and_is_well_formed(script, which):
    bare = {"AWS_ACCESS_KEY_ID": None, "AWS_REGION": None, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    result = script("dashboard.py", "--print", *which, **bare)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    taken = set()
    for widget in printed["dashboard"]["widgets"]:
        x, y, width, height = (widget[key] for key in ("x", "y", "width", "height"))
        cells = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
        assert x + width <= 24
        assert not cells & taken
        taken |= cells
    named = {
        metric[1]
        for widget in printed["dashboard"]["widgets"]
        for metric in widget["properties"].get("metrics", [])
        if metric[0] == NAMESPACE
    } | {alarm["MetricName"] for alarm in printed["alarms"]}
    assert named <= METRICS.keys()
    phases = {dimension["Value"] for a in printed["alarms"] for dimension in a["Dimensions"]}
    assert ("training" in phases, "serving" in phases) == ("--endpoint" not in which, "--job" not in which)
    for alarm in printed["alarms"]:
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"]
        assert alarm["EvaluationPeriods"] * alarm["Period"] <= 24 * 3600
        assert (alarm["TreatMissingData"] == "breaching") == ("silence" in alarm["AlarmName"])


def test_a_name_that_no_dashboard_can_have_is_refused_in_one_line(script):
    result = script("dashboard.py", "--project", "my project")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "'my project'" in line


def test_a_dashboard_that_is_not_there_is_said(aws, script):
    result = script("dashboard.py", "--delete")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "dashboard: AWS refused DeleteDashboards" in line


# show_metrics


def test_the_last_hour_as_table_and_picture(aws, script, tmp_path):
    put(aws, "GpuUtilization", [0, 50, 100], JOB)
    put(aws, "GpuUtilization", [7], {**JOB, "JobName": "another"})
    put(aws, "SamplesPerSecond", [20], JOB)
    result = script("show_metrics.py", "job-1", "--png", tmp_path / "hour.png")
    assert result.returncode == 0, result.stderr
    _, utilization, samples, _ = result.stdout.splitlines()
    assert utilization.split() == ["GpuUtilization", "algo-1", "100", "50", "100", "▁▅█"]
    assert samples.split() == ["SamplesPerSecond", "algo-1", "20", "20", "20", "▁"]
    assert (tmp_path / "hour.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_show_is_said(aws, script):
    result = script("show_metrics.py", "nobody")
    assert result.returncode == 1
    assert "no metric of 'nobody'" in result.stderr


def test_a_sparkline_keeps_its_ends_and_its_width():
    line = show_metrics.sparkline(range(1000))
    assert (len(line), line[0], line[-1]) == (show_metrics.SPARKS, "▁", "█")
    assert show_metrics.sparkline([3, 3]) == "▁▁"


# doctor


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
    put(aws, "GpuUtilization", [50], JOB)
    result = script("doctor.py", "--job", "job-1")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("ok ") for line in lines)
    assert "1 in 1 series" in lines[-1]


def test_a_job_that_is_not_well_is_told_the_cures(aws, script, job):
    job(GPU_METRICS="off")
    write_log(aws, "step=1; train_loss=3;")
    put(aws, "EMFValidationErrors", [3], {"LogGroupName": "/aws/sagemaker/TrainingJobs"}, "AWS/Logs")
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
