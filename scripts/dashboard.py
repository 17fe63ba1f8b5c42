#!/usr/bin/env python3
"""A CloudWatch dashboard of what the containers publish, with its alarms: made, printed or deleted.

dashboard.py --project surface-normals                    training and serving of a project
dashboard.py --project surface-normals --endpoint NAME    one endpoint, silence and latency included
dashboard.py --project surface-normals --job NAME         one training job
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from launching.calls import Aws, Call
from launching.limits import check_limits
from metrics_queries import LEVELS, NAMESPACE, add_region, one_line_errors
from watch_alarms import Watched, alarm_prefix, alarms

WIDTH, HEIGHT = 8, 6
"""Of a widget, in the dashboard's grid of 24 columns."""
SO_FAR = "so far"
"""In the place of a statistic: the sum since the graph's left end."""
TRAINING_ROWS = (
    (("SamplesPerSecond", "Average"), ("DataWaitPercent", "Average"), ("CostPer1000", "Average")),
    (("GpuUtilization", "p10 p50 p90"), ("GpuIdlePercent", "Average"), ("WastedUsd", "Sum")),
    (("SamplesPerJoule", "Average"), ("GpuEnergyJoules", "Sum"), ("GpuUtilizationSpread", "Maximum")),
    (("StepMilliseconds", "p50 p90"), ("LossScale", "Minimum"), ("HostUsd", SO_FAR)),
)
SERVING_ROWS = (
    (("Requests", "Sum"), ("RequestErrors", "Sum"), ("RequestMilliseconds", "p50 p90 p99")),
    (("QueueMilliseconds", "p50 p90"), ("BatchSize", "Average"), ("InFlightRequests", "Maximum")),
    (
        ("DecodeMilliseconds", "p50 p90"),
        ("PredictMilliseconds", "p50 p90"),
        ("EncodeMilliseconds", "p50 p90"),
    ),
    (("GpuSecondsPerRequest", "Average"), ("CostPer1000", "Average"), ("WastedUsd", "Sum")),
    (("DriftPsi", "Maximum"), ("DriftKs", "Maximum"), ("HostUsd", SO_FAR)),
)
OF_EACH = (
    (("GpuUtilization", "Average"), ("GpuMemoryUsedPercent", "Maximum"), ("GpuPowerWatts", "Average")),
    (
        ("GpuThrottledPercent", "Average"),
        ("GpuPowerCappedPercent", "Average"),
        ("GpuTemperatureCelsius", "Maximum"),
    ),
    (
        ("GpuSmActivePercent", "Average"),
        ("GpuTensorActivePercent", "Average"),
        ("GpuMemoryBandwidthPercent", "Average"),
    ),
    (("GpuNvlinkReceivedMebibytesPerSecond", "Average"), ("GpuNvlinkSentMebibytesPerSecond", "Average")),
    (("GpuErrors", "Sum"), ("GpuXidErrors", "Sum"), ("GpuLost", "Sum")),
)
"""Rows with a line for each host, or each GPU at METRICS_LEVEL=gpu."""
OF_WHOM = {
    "fleet": "all GPUs together",
    "host": "each host, or each GPU at METRICS_LEVEL=gpu",
    "gpu": "each GPU",
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    watched = Watched(options.project, options.endpoint, options.variant, options.job, options.level)
    with one_line_errors("dashboard"):
        board = body(watched, options.region)
        alarm_set = alarms(
            watched,
            options.topic,
            queue_milliseconds=options.queue_milliseconds,
            request_milliseconds=options.request_milliseconds,
        )
        if options.print:
            print(json.dumps({"dashboard": board, "alarms": alarm_set}, indent=2))
            return
        aws = Aws(options.region)
        if options.delete:
            names = existing_alarms(aws, watched)
            if names:
                aws(Call("cloudwatch", "delete_alarms", {"AlarmNames": names}))
            aws(Call("cloudwatch", "delete_dashboards", {"DashboardNames": [watched.name]}))
            print(f"dashboard {watched.name} and {len(names)} alarms are deleted")
            return
        region = aws.client("cloudwatch").meta.region_name
        board = body(watched, region)
        calls = [
            Call(
                "cloudwatch",
                "put_dashboard",
                {"DashboardName": watched.name, "DashboardBody": json.dumps(board)},
            ),
            *(Call("cloudwatch", "put_metric_alarm", alarm) for alarm in alarm_set),
        ]
        check_limits(calls, region)
        for call in calls:
            aws(call)
        print(f"dashboard {watched.name} with {len(alarm_set)} alarms")
        print(
            f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards/dashboard/{watched.name}"
        )


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--project", default="surface-normals", help="METRICS_PROJECT of the job or endpoint")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--endpoint", metavar="NAME", help="this endpoint alone")
    one.add_argument("--job", metavar="NAME", help="this training job alone")
    add("--variant", default="AllTraffic", help="of the endpoint")
    add("--level", choices=LEVELS, default="host", help="its METRICS_LEVEL (%(default)s)")
    add("--topic", metavar="ARN", help="SNS topic that the alarms tell; default: they tell nobody")
    limit = "p90 of {} from which on it alarms (%(default)s)".format
    add("--queue-milliseconds", type=float, default=200, help=limit("the wait for the model"))
    add("--request-milliseconds", type=float, default=2000, help=limit("a request's time in the server"))
    do = parser.add_mutually_exclusive_group()
    do.add_argument("--print", action="store_true", help="print dashboard and alarms as JSON, without AWS")
    do.add_argument("--delete", action="store_true", help="delete both")
    add_region(parser)
    return parser.parse_args(arguments)


def body(watched: Watched, region: str | None) -> dict[str, Any]:
    """What PutDashboard takes."""
    widgets: list[dict[str, Any]] = []
    for phase in watched.phases:
        rows = TRAINING_ROWS if phase == "training" else SERVING_ROWS
        _add_heading(widgets, f"# {phase}: the work")
        for row in rows:
            _add_row(widgets, [_fixed(watched, phase, name, stats) for name, stats in row])
        _add_heading(widgets, f"# {phase}: {OF_WHOM[watched.level]}")
        for row in OF_EACH:
            draw = _fixed if watched.level == "fleet" else _searched
            _add_row(widgets, [draw(watched, phase, name, stat) for name, stat in row])
        if own := _sagemakers(watched, phase):
            _add_heading(widgets, "# What SageMaker itself says")
            _add_row(widgets, own)
    for widget in widgets:
        if widget["type"] == "metric" and region is not None:
            widget["properties"]["region"] = region
    return {"widgets": widgets}


def existing_alarms(aws: Aws, watched: Watched) -> list[str]:
    """Names of those alarms of ours that are there: DeleteAlarms deletes none when it does not know one of them."""
    return [
        alarm["AlarmName"]
        for phase in watched.phases
        for page in aws.client("cloudwatch")
        .get_paginator("describe_alarms")
        .paginate(AlarmNamePrefix=alarm_prefix(watched, phase))
        for alarm in page["MetricAlarms"]
        if alarm.get("Namespace") == NAMESPACE
    ]


def _add_heading(widgets: list[dict[str, Any]], markdown: str) -> None:
    text = {"type": "text", "x": 0, "width": 24, "height": 1, "properties": {"markdown": markdown}}
    widgets.append({**text, "y": _bottom(widgets)})


def _add_row(widgets: list[dict[str, Any]], row: list[dict[str, Any]]) -> None:
    bottom = _bottom(widgets)
    widgets += [
        {
            "type": "metric",
            "x": WIDTH * column,
            "y": bottom,
            "width": WIDTH,
            "height": HEIGHT,
            "properties": one,
        }
        for column, one in enumerate(row)
    ]


def _bottom(widgets: list[dict[str, Any]]) -> int:
    return max((widget["y"] + widget["height"] for widget in widgets), default=0)


def _properties(title: str, metrics: list[Any], stat: str) -> dict[str, Any]:
    return {"view": "timeSeries", "title": title, "metrics": metrics, "stat": stat, "period": 60}


def _fixed(watched: Watched, phase: str, name: str, stats: str) -> dict[str, Any]:
    dimensions = [word for pair in watched.dimensions(phase, name).items() for word in pair]
    if stats == SO_FAR:
        summed: list[Any] = [
            [NAMESPACE, name, *dimensions, {"id": "m0", "visible": False}],
            [{"expression": "RUNNING_SUM(m0)", "id": "e0", "label": SO_FAR}],
        ]
        return _properties(f"{name} {SO_FAR}", summed, "Sum")
    metrics = [
        [NAMESPACE, name, *dimensions, {"stat": stat, "label": stat if " " in stats else name}]
        for stat in stats.split()
    ]
    return _properties(name, metrics, stats.split()[0])


def _searched(watched: Watched, phase: str, name: str, stat: str) -> dict[str, Any]:
    """One expression for each of the levels `host` and `gpu`: they also find hosts that are yet to come."""
    schema, terms = watched.search(phase)
    expressions = [
        f"SEARCH('{{{NAMESPACE},{','.join(names)}}} MetricName=\"{name}\" {terms}', '{stat}', 60)"
        for names in (schema, (*schema, "Gpu"))
    ]
    metrics = [
        [{"expression": text, "id": f"e{number}", "label": ""}] for number, text in enumerate(expressions)
    ]
    return _properties(name, metrics, stat)


def _sagemakers(watched: Watched, phase: str) -> list[dict[str, Any]]:
    """Its own figures of one job or endpoint, to hold ours against.

    Its GPUUtilization is up to 100 % for each GPU, and how many there are no metric says, to divide it by.
    """
    if watched.endpoint:
        dimensions = ["EndpointName", watched.endpoint, "VariantName", watched.variant]
        times = [["AWS/SageMaker", name, *dimensions] for name in ("ModelLatency", "OverheadLatency")]
        calls = [
            ["AWS/SageMaker", name, *dimensions]
            for name in ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")
        ]
        used = [["/aws/sagemaker/Endpoints", "GPUUtilization", *dimensions]]
        return [
            _properties("ModelLatency, OverheadLatency (microseconds)", times, "p90"),
            _properties("Invocations", calls, "Sum"),
            _properties("GPUUtilization (sum over GPUs)", used, "Average"),
        ]
    if watched.job:
        terms = f'MetricName="GPUUtilization" "{watched.job}"'
        search = f"SEARCH('{{/aws/sagemaker/TrainingJobs,Host}} {terms}', 'Average', 60)"
        return [
            _properties("GPUUtilization (sum over GPUs)", [[{"expression": search, "id": "e0"}]], "Average")
        ]
    return []


if __name__ == "__main__":
    main()
