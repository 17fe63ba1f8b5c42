#!/usr/bin/env python3
"""After a real job or endpoint: do its metrics arrive, and if not, why. A line for each check, with the cure.

doctor.py --job my-job
doctor.py --endpoint my-endpoint
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import NamedTuple

from botocore.exceptions import ClientError

from launching.calls import Aws
from metrics_queries import add_region, curves, one_line_errors
from patients import Container, Patient, describe_endpoint, describe_job

EMF = '"_aws"'
LISTED = timedelta(days=14)
"""CloudWatch lists no series that has been silent for longer (API reference, "ListMetrics")."""


class Finding(NamedTuple):
    """What a check found: well, not well with its cure, or (None) not to be told."""

    is_well: bool | None
    text: str
    cure: str = ""


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


def examine(aws: Aws, patient: Patient) -> Iterator[Finding]:
    """Every check in the order in which its failure explains the next ones; one that AWS refuses is unknown."""
    if not patient.containers:
        yield Finding(False, f"{patient.name} has no inference component", "make one: nothing runs there")
    containers, places = patient.containers, patient.log_places
    for check in (
        *(partial(settings, patient, one) for one in containers),
        *(partial(log, aws, patient, *place) for place in places),
        *(partial(rejected, aws, patient, group) for group, _ in places),
        *(partial(role, aws, one) for one in containers),
        *(partial(arrived, aws, patient, one) for one in containers),
    ):
        try:
            yield check()
        except ClientError as error:
            refused = f"{check.func.__name__}: AWS refused {error.operation_name}"
            reason = error.response["Error"]["Code"]
            yield Finding(None, f"{refused} ({reason})", f"allow your user {error.operation_name}")


def settings(patient: Patient, container: Container) -> Finding:
    """Whether anything is switched off, and whether an endpoint's container knows whose it is."""
    for name in ("GPU_METRICS", "METRICS_SINK"):
        if container.environment.get(name, "").lower() == "off":
            return Finding(False, f"{name}=off{container.of}: nothing is published", f"leave {name} out")
    wanted = container.own_series
    names = {"ENDPOINT_NAME": wanted.get("Endpoint"), "VARIANT_NAME": wanted.get("Variant")}
    wrong = {name: value for name, value in names.items() if container.environment.get(name) != value}
    if wrong:
        return Finding(
            False,
            f"the container{container.of} does not know its endpoint: its figures are filed under others' names",
            f"set {' and '.join(f'{name}={value}' for name, value in wrong.items())}, as `launch.py deploy` does",
        )
    return Finding(True, f"settings{container.of}: METRICS_SINK={container.sink}")


def log(aws: Aws, patient: Patient, group: str, prefix: str) -> Finding:
    """Whether metric lines stand in the log."""
    if all(container.sink != "emf" for container in patient.containers):
        return Finding(True, "log: no metric lines expected")
    client = aws.client("logs")
    try:
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=group,
            filterPattern=EMF,
            startTime=_milliseconds(patient.begin),
            endTime=_milliseconds(patient.end),
            PaginationConfig={"MaxItems": 1},
            **({"logStreamNamePrefix": prefix} if prefix else {}),
        )
        count = sum(len(page["events"]) for page in pages)
    except client.exceptions.ResourceNotFoundException:
        may = "let the role create log groups and streams and put log events (logs:*)"
        return Finding(False, f"log: there is no group {group}", may)
    if not count:
        return Finding(
            False,
            f"log: no metric line in {group} {patient.span}",
            "look there for a line `GPU metrics end here` or `no GPU is sampled`; the first line comes after a minute",
        )
    return Finding(True, f"log: metric lines in {group}")


def rejected(aws: Aws, patient: Patient, group: str) -> Finding:
    """Whether CloudWatch Logs could not make metrics of lines."""
    counts = {}
    for metric in ("EMFParsingErrors", "EMFValidationErrors"):
        points = aws.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Logs",
            MetricName=metric,
            Dimensions=[{"Name": "LogGroupName", "Value": group}],
            StartTime=patient.begin,
            EndTime=patient.end + timedelta(minutes=1),
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        counts[metric] = sum(point["Sum"] for point in points)
    if bad := {name: count for name, count in counts.items() if count}:
        told = ", ".join(f"{count:.0f} {name}" for name, count in bad.items())
        cure = "use METRICS_SINK=putmetricdata, and report this with a line of the log: it is a defect"
        return Finding(False, f"lines rejected in all of {group}: {told} {patient.span}", cure)
    return Finding(True, "lines rejected: none")


def role(aws: Aws, container: Container) -> Finding:
    """Whether PutMetricData may be called, where it is to be."""
    if container.sink != "putmetricdata":
        return Finding(True, f"role{container.of}: needs no right for metric lines")
    if container.is_isolated:
        cure = "use METRICS_SINK=emf, which needs neither, or switch isolation off"
        text = f"role{container.of}: network isolation leaves no credentials and no network"
        return Finding(False, text, cure)
    if container.role is None:
        return Finding(None, f"role{container.of}: not known")
    results = aws.client("iam").simulate_principal_policy(
        PolicySourceArn=container.role, ActionNames=["cloudwatch:PutMetricData"]
    )["EvaluationResults"]
    if any(result["EvalDecision"] != "allowed" for result in results):
        cure = "allow it cloudwatch:PutMetricData on *, or use METRICS_SINK=emf, which needs no right"
        return Finding(False, f"role: {container.role} may not call PutMetricData", cure)
    return Finding(True, f"role{container.of}: may call PutMetricData")


def arrived(aws: Aws, patient: Patient, container: Container) -> Finding:
    """Whether CloudWatch has points."""
    end = patient.end + timedelta(minutes=1)
    found = curves(aws.client("cloudwatch"), [container.series], patient.begin, end)
    whose = f"metrics{container.of}"
    if "Phase" in container.series:
        whose = f"metrics of all of {container.series['Project']} (METRICS_LEVEL=fleet)"
    if not found:
        if datetime.now(timezone.utc) - patient.end > LISTED:
            return Finding(None, f"{whose}: CloudWatch lists none that is {LISTED.days} days old")
        cure = "see the lines above; a first point takes some three minutes"
        return Finding(False, f"{whose}: none in CloudWatch {patient.span}", cure)
    names = {curve.metric for curve in found}
    newest = max(curve.times[-1] for curve in found)
    text = f"{whose}: {len(names)} in {len(found)} series, the newest of {newest:%Y-%m-%d %H:%M} UTC"
    if container.has_gpu and not any(name.startswith("Gpu") for name in names):
        return Finding(False, f"{text}, none of a GPU", "the log says why: `no GPU is sampled: ...`")
    return Finding(True, text)


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


if __name__ == "__main__":
    main()
