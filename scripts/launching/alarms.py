"""The guard of `update` and `shift`: alarms on a variant, at which the traffic goes back."""

import argparse
from typing import Any

from launching.calls import Aws, Call
from launching.request import owner_tag

PERIOD_SECONDS = 60


def add_guard(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--max-errors",
        type=int,
        default=3,
        metavar="N",
        help="5xx answers a minute that turn it back (%(default)s)",
    )
    add(
        "--max-latency-ms",
        type=int,
        metavar="MS",
        help="mean of a minute that turns it back; default: no limit",
    )
    add(
        "--alarm",
        action="append",
        default=[],
        metavar="NAME",
        help="a CloudWatch alarm of yours that turns it back",
    )


def guards(options: argparse.Namespace, endpoint: str, variant: str) -> list[Call]:
    """One alarm for errors, and with --max-latency-ms one for the latency."""
    alarms = [_alarm(endpoint, variant, "errors", "Invocation5XXErrors", "Sum", options.max_errors)]
    if options.max_latency_ms:
        microseconds = 1000 * options.max_latency_ms  # ModelLatency's unit
        alarms.append(_alarm(endpoint, variant, "latency", "ModelLatency", "Average", microseconds))
    return alarms


def names(options: argparse.Namespace, calls: list[Call]) -> list[str]:
    return [call.arguments["AlarmName"] for call in calls] + options.alarm


def existing(alarm_names: list[str], aws: Aws) -> set[str]:
    """Those of the alarms that are there already."""
    answer = aws(Call("cloudwatch", "describe_alarms", {"AlarmNames": alarm_names}))
    return {alarm["AlarmName"] for alarm in answer["MetricAlarms"]}


def ringing(alarm_names: list[str], aws: Aws) -> list[str]:
    """Those of the alarms that ring, each with its reason."""
    answer = aws(Call("cloudwatch", "describe_alarms", {"AlarmNames": alarm_names}))
    return [
        f"{alarm['AlarmName']}: {alarm.get('StateReason', '')}"
        for alarm in answer["MetricAlarms"]
        if alarm["StateValue"] == "ALARM"
    ]


def _alarm(endpoint: str, variant: str, what: str, metric: str, statistic: str, limit: int) -> Call:
    request: dict[str, Any] = {
        "AlarmName": f"{endpoint}-{variant}-{what}",
        "MetricName": metric,
        "Namespace": "AWS/SageMaker",
        "Dimensions": [
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": variant},
        ],
        "Statistic": statistic,
        "Period": PERIOD_SECONDS,
        "EvaluationPeriods": 1,
        "Threshold": limit,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": owner_tag(endpoint),
    }
    return Call("cloudwatch", "put_metric_alarm", request)
