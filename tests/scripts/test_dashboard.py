"""dashboard.py as a user runs it, against moto_server; its alarms and widgets against what the containers publish."""

import dataclasses
import json
import re

import pytest

import dashboard
import emf_validator
from metrics import emf
from metrics.catalogue import METRICS
from metrics.cloudwatch import LEVELS, NAMESPACE, Identity
from metrics.period import DRIFT_FIGURES, SUMMED_WORK, WORK_FIGURES, series_of
from metrics.sample import GpuSample

WATCHED = [(), ("--endpoint", "door"), ("--job", "job-1")]
HOSTS = {
    "training": {"Project": "normals", "JobName": "job-1", "Host": "algo-1"},
    "serving": {"Project": "normals", "Endpoint": "door", "Variant": "AllTraffic"},
}


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


@pytest.mark.parametrize("which", WATCHED)
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
    phases = {alarm["AlarmName"].split()[1].rstrip(":") for alarm in printed["alarms"]}
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


# what is watched is there


@pytest.fixture
def printed(capsys):
    """Dashboard and alarms of some options."""

    def run(*options):
        dashboard.main(["--project", "normals", *options, "--print"])
        return json.loads(capsys.readouterr().out)

    return run


def everything_published(phase, level):
    """(metric, dimensions) of each series that a container makes which knows every figure that there is."""
    readings = {row.name: 1 for row in dataclasses.fields(GpuSample)}
    samples = [GpuSample(**{**readings, "gpu": gpu, "lost": gpu > 0}) for gpu in range(2)]
    figures = [*WORK_FIGURES, *SUMMED_WORK, *(f"{distance}:brightness" for distance in DRIFT_FIGURES)]
    work = [dict.fromkeys(figures, 1.0)]
    series = series_of(samples, work, seconds=60, num_hosts=1, usd_per_hour=2.0)
    assert {one.name for one in series} == METRICS.keys()
    lines = emf.lines(series, Identity(phase, HOSTS[phase], level), 1_790_000_000_000)
    data = [datum for line in lines for datum in emf_validator.read(line)]
    return {(datum.name, frozenset(datum.dimensions.items())) for datum in data}


def found_by(expression, published):
    """The series that a SEARCH finds among those."""
    names, metric, terms = re.fullmatch(
        rf"SEARCH\('{{{NAMESPACE},([\w,]+)}} MetricName=\"(\w+)\" (.+)', '\w+', 60\)", expression
    ).groups()
    wanted = set(re.findall(r'(\w+)="([^"]+)"', terms))
    return [
        (name, dimensions)
        for name, dimensions in published
        if name == metric and dict(dimensions).keys() == set(names.split(",")) and wanted <= dimensions
    ]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("which", WATCHED)
def test_every_alarm_and_every_widget_has_a_series_that_is_published(printed, which, level):
    board = printed(*which, "--level", level)
    published = {phase: everything_published(phase, level) for phase in HOSTS}
    everything = set().union(*published.values())
    for alarm in board["alarms"]:
        dimensions = frozenset((one["Name"], one["Value"]) for one in alarm["Dimensions"])
        assert (alarm["MetricName"], dimensions) in everything, alarm["AlarmName"]
    looked_at = 0
    for widget in board["dashboard"]["widgets"]:
        properties = widget["properties"]
        metrics = properties.get("metrics", [])
        searches = [
            row[0]["expression"] for row in metrics if "SEARCH" in str(row[0]) and NAMESPACE in str(row)
        ]
        if searches:
            assert any(found_by(search, everything) for search in searches), properties["title"]
            looked_at += 1
        for row in metrics:
            if row[0] == NAMESPACE:
                name, words = row[1], row[2:-1]
                pairs = frozenset(zip(words[::2], words[1::2], strict=True))
                assert (name, pairs) in everything, properties["title"]
                looked_at += 1
    assert looked_at > 20


def test_one_endpoints_alarms_are_its_own_where_it_has_the_series(printed):
    own = {
        level: {
            alarm["MetricName"]
            for alarm in printed("--endpoint", "door", "--level", level)["alarms"]
            if {"Name": "Endpoint", "Value": "door"} in alarm["Dimensions"]
        }
        for level in LEVELS
    }
    of_parts = {metric for metric in own["host"] if metric.startswith(("Gpu", "Drift"))}
    assert own["fleet"] == set()
    assert len(of_parts) == 6
    assert own["gpu"] == own["host"] - of_parts


ALARMS = {
    # name: metric, statistic, comparison, threshold, bad minutes of so many
    "training: GPU error": ("GpuErrors", "Sum", "GreaterThanThreshold", 0, 1, 1),
    "training: GPU XID": ("GpuXidErrors", "Sum", "GreaterThanThreshold", 0, 1, 1),
    "training: GPU lost": ("GpuLost", "Maximum", "GreaterThanThreshold", 0, 1, 1),
    "training: GPU throttled": ("GpuThrottledPercent", "Average", "GreaterThanThreshold", 20, 5, 10),
    "training: GPU memory nearly full": ("GpuMemoryUsedPercent", "Maximum", "GreaterThanThreshold", 95, 3, 5),
    "training: GPU idle": ("GpuUtilization", "Average", "LessThanThreshold", 5, 15, 15),
    "training: data-starved": ("DataWaitPercent", "Average", "GreaterThanThreshold", 30, 10, 15),
    "training: straggler": ("GpuUtilizationSpread", "Maximum", "GreaterThanThreshold", 40, 10, 15),
    "serving: GPU error": ("GpuErrors", "Sum", "GreaterThanThreshold", 0, 1, 1),
    "serving: GPU XID": ("GpuXidErrors", "Sum", "GreaterThanThreshold", 0, 1, 1),
    "serving: GPU lost": ("GpuLost", "Maximum", "GreaterThanThreshold", 0, 1, 1),
    "serving: GPU throttled": ("GpuThrottledPercent", "Average", "GreaterThanThreshold", 20, 5, 10),
    "serving: GPU memory nearly full": ("GpuMemoryUsedPercent", "Maximum", "GreaterThanThreshold", 95, 3, 5),
    "serving: idle endpoint": ("Requests", "Sum", "LessThanOrEqualToThreshold", 0, 60, 60),
    "serving: drift": ("DriftPsi", "Maximum", "GreaterThanThreshold", 0.25, 30, 60),
    "serving: request errors": ("RequestErrors", "Sum", "GreaterThanThreshold", 0, 3, 5),
    "serving: queue": ("QueueMilliseconds", "p90", "GreaterThanThreshold", 150, 3, 5),
    "serving: latency": ("RequestMilliseconds", "p90", "GreaterThanThreshold", 700, 3, 5),
}
SILENCE = ("Requests", "SampleCount", "LessThanThreshold", 1, 10, 10)


@pytest.mark.parametrize("which", WATCHED)
def test_when_each_alarm_rings(printed, which):
    alarms = printed(*which, "--queue-milliseconds", "150", "--request-milliseconds", "700")["alarms"]
    missing = {alarm["AlarmName"]: alarm["TreatMissingData"] for alarm in alarms}
    rings = {
        alarm["AlarmName"]: (
            alarm["MetricName"],
            alarm.get("Statistic") or alarm["ExtendedStatistic"],
            alarm["ComparisonOperator"],
            alarm["Threshold"],
            alarm["DatapointsToAlarm"],
            alarm["EvaluationPeriods"],
        )
        for alarm in alarms
    }
    phases = {"--endpoint": ("serving",), "--job": ("training",)}.get(
        (*which, "")[0], ("training", "serving")
    )
    expected = {name: row for name, row in ALARMS.items() if name.startswith(phases)}
    if "--endpoint" in which:
        expected["serving: silence"] = SILENCE
    prefix = "-".join(("normals", *which[1:]))
    assert rings == {f"{prefix} {name}": row for name, row in expected.items()}
    assert {name for name, value in missing.items() if value != "notBreaching"} == {
        name for name in rings if "silence" in name
    }


def test_what_was_spent_so_far_is_a_running_sum(printed):
    [widget] = [
        widget["properties"]
        for widget in printed("--job", "job-1")["dashboard"]["widgets"]
        if widget["properties"].get("title") == "HostUsd so far"
    ]
    price, total = widget["metrics"]
    assert price == [
        NAMESPACE,
        "HostUsd",
        "Project",
        "normals",
        "Phase",
        "training",
        {"id": "m0", "visible": False},
    ]
    assert (total[0]["expression"], widget["stat"]) == ("RUNNING_SUM(m0)", "Sum")


def test_what_is_left_of_a_dashboards_alarms_is_deleted(aws, script):
    """CloudWatch deletes no alarm of a call that names one which is not there."""
    door = ("dashboard.py", "--project", "normals", "--endpoint", "door")
    assert script(*door).returncode == 0
    client = aws.client("cloudwatch")
    names = [alarm["AlarmName"] for alarm in client.describe_alarms()["MetricAlarms"]]
    client.delete_alarms(AlarmNames=names[2:4])
    other = {"MetricName": "x", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1, "Threshold": 1}
    other |= {"ComparisonOperator": "GreaterThanThreshold", "Namespace": "own"}
    client.put_metric_alarm(AlarmName="normals-door serving: mine", **other)
    deleted = script(*door, "--delete")
    assert deleted.returncode == 0, deleted.stderr
    assert f"and {len(names) - 2} alarms are deleted" in deleted.stdout
    [body] = [
        body for operation, body in aws.requests if b"DeleteAlarms" in body or "DeleteAlarms" in operation
    ]
    assert names[2].rpartition(": ")[2].replace(" ", "+").encode() not in body
    assert [a["AlarmName"] for a in client.describe_alarms()["MetricAlarms"]] == [
        "normals-door serving: mine"
    ]
