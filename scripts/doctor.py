#!/usr/bin/env python3
"""After a real job or endpoint: do its metrics arrive, and if not, why. A line for each check, with the cure.

doctor.py --job my-job
doctor.py --endpoint my-endpoint
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from botocore.exceptions import ClientError

from launching.calls import Aws
from metrics_queries import add_region, curves, one_line_errors

LOG_GROUPS = {"job": "/aws/sagemaker/TrainingJobs", "endpoint": "/aws/sagemaker/Endpoints/{name}"}
HOURS = 3
EMF = '"_aws"'


class Finding(NamedTuple):
    """What a check found: well, not well with its cure, or (None) not to be told."""

    is_well: bool | None
    text: str
    cure: str = ""


class Patient(NamedTuple):
    """The job or endpoint, and what was set for it."""

    kind: str
    name: str
    role: str | None
    is_isolated: bool
    environment: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    with one_line_errors("doctor"):
        aws = Aws(options.region)
        patient = describe_job(aws, options.job) if options.job else describe_endpoint(aws, options.endpoint)
        findings = list(examine(aws, patient))
    for finding in findings:
        mark = {True: "ok      ", False: "not well", None: "unknown "}[finding.is_well]
        print(f"{mark}  {finding.text}" + (f"\n          cure: {finding.cure}" if finding.cure else ""))
    sys.exit(any(finding.is_well is False for finding in findings))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--job", metavar="NAME")
    one.add_argument("--endpoint", metavar="NAME")
    add_region(parser)
    return parser.parse_args(arguments)


def describe_job(aws: Aws, name: str) -> Patient:
    job = aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    isolated = job.get("EnableNetworkIsolation", False)
    return Patient("job", name, job.get("RoleArn"), isolated, job.get("Environment") or {})


def describe_endpoint(aws: Aws, name: str) -> Patient:
    client = aws.client("sagemaker")
    config = client.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    variant = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
    model = client.describe_model(ModelName=variant["ModelName"])
    environment = (model.get("PrimaryContainer") or {}).get("Environment") or {}
    isolated = model.get("EnableNetworkIsolation", False)
    return Patient("endpoint", name, model.get("ExecutionRoleArn"), isolated, environment)


def examine(aws: Aws, patient: Patient) -> Iterator[Finding]:
    """Every check in the order in which its failure explains the next ones; one that AWS refuses is unknown."""
    checks: list[Callable[[Aws, Patient], Finding]] = [settings, log, rejected, role, arrived]
    for check in checks:
        try:
            yield check(aws, patient)
        except ClientError as error:
            reason = error.response["Error"]["Code"]
            allow = f"allow your user {error.operation_name}"
            yield Finding(None, f"{check.__name__}: AWS refused {error.operation_name} ({reason})", allow)


def settings(aws: Aws, patient: Patient) -> Finding:
    """Whether anything is switched off."""
    for name in ("GPU_METRICS", "METRICS_SINK"):
        if patient.environment.get(name, "").lower() == "off":
            return Finding(False, f"{name}=off: nothing is published", f"leave {name} out")
    if patient.kind == "endpoint" and patient.environment.get("ENDPOINT_NAME") != patient.name:
        return Finding(
            False,
            "the container does not know its endpoint: its figures are filed under the project alone",
            f"set ENDPOINT_NAME={patient.name} and VARIANT_NAME, as `launch.py deploy` does",
        )
    return Finding(True, f"settings: METRICS_SINK={_sink(patient)}")


def log(aws: Aws, patient: Patient) -> Finding:
    """Whether metric lines stand in the log."""
    if _sink(patient) != "emf":
        return Finding(True, "log: no metric lines expected")
    group = LOG_GROUPS[patient.kind].format(name=patient.name)
    prefix = {"logStreamNamePrefix": patient.name} if patient.kind == "job" else {}
    client = aws.client("logs")
    try:
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=group,
            filterPattern=EMF,
            startTime=_milliseconds(_now() - timedelta(hours=HOURS)),
            PaginationConfig={"MaxItems": 1},
            **prefix,
        )
        count = sum(len(page["events"]) for page in pages)
    except client.exceptions.ResourceNotFoundException:
        may = "let the role create log groups and streams and put log events (logs:*)"
        return Finding(False, f"log: there is no group {group}", may)
    if not count:
        return Finding(
            False,
            f"log: no metric line in {group} in the last {HOURS} h",
            "look there for a line `GPU metrics end here` or `no GPU is sampled`; the first line comes after a minute",
        )
    return Finding(True, f"log: metric lines in {group}")


def rejected(aws: Aws, patient: Patient) -> Finding:
    """Whether CloudWatch Logs could not make metrics of lines."""
    group = LOG_GROUPS[patient.kind].format(name=patient.name)
    counts = {}
    for metric in ("EMFParsingErrors", "EMFValidationErrors"):
        points = aws.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Logs",
            MetricName=metric,
            Dimensions=[{"Name": "LogGroupName", "Value": group}],
            StartTime=_now() - timedelta(hours=HOURS),
            EndTime=_now() + timedelta(minutes=1),
            Period=HOURS * 3600,
            Statistics=["Sum"],
        )["Datapoints"]
        counts[metric] = sum(point["Sum"] for point in points)
    if bad := {name: count for name, count in counts.items() if count}:
        told = ", ".join(f"{count:.0f} {name}" for name, count in bad.items())
        cure = "use METRICS_SINK=putmetricdata, and report this with a line of the log: it is a defect"
        return Finding(False, f"lines rejected: {told} in the last {HOURS} h", cure)
    return Finding(True, "lines rejected: none")


def role(aws: Aws, patient: Patient) -> Finding:
    """Whether PutMetricData may be called, where it is to be."""
    if _sink(patient) != "putmetricdata":
        return Finding(True, "role: needs no right for metric lines")
    if patient.is_isolated:
        cure = "use METRICS_SINK=emf, which needs neither, or switch isolation off"
        return Finding(False, "role: network isolation leaves no credentials and no network", cure)
    if patient.role is None:
        return Finding(None, "role: not known")
    results = aws.client("iam").simulate_principal_policy(
        PolicySourceArn=patient.role, ActionNames=["cloudwatch:PutMetricData"]
    )["EvaluationResults"]
    if any(result["EvalDecision"] != "allowed" for result in results):
        cure = "allow it cloudwatch:PutMetricData on *, or use METRICS_SINK=emf, which needs no right"
        return Finding(False, f"role: {patient.role} may not call PutMetricData", cure)
    return Finding(True, "role: may call PutMetricData")


def arrived(aws: Aws, patient: Patient) -> Finding:
    """Whether CloudWatch has points."""
    found = curves(aws.client("cloudwatch"), patient.name, HOURS)
    if not found:
        cure = "see the lines above; a first point takes some three minutes, and METRICS_LEVEL=fleet has none of a job"
        return Finding(False, f"metrics: none in CloudWatch in the last {HOURS} h", cure)
    names = {curve.metric for curve in found}
    newest = max(curve.times[-1] for curve in found)
    text = f"metrics: {len(names)} in {len(found)} series, the newest of {newest:%H:%M} UTC"
    if not any(name.startswith("Gpu") for name in names):
        return Finding(
            False, f"{text}, none of a GPU", "right without a GPU; else the log says `no GPU is sampled: ...`"
        )
    return Finding(True, text)


def _sink(patient: Patient) -> str:
    return patient.environment.get("METRICS_SINK", "emf").lower()


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


if __name__ == "__main__":
    main()
