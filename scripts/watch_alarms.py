"""For `dashboard.py`: what is watched, and the alarms on it.

The log's way into CloudWatch takes a minute or two, and points may come late: no alarm goes by a single one,
but for errors, and what is missing is no breach, but for silence.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from launching.calls import LaunchError
from metrics_queries import NAMESPACE, OF_PARTS

MINUTE = 60


class Rule(NamedTuple):
    """An alarm: `statistic` of `metric` lies `sign` of `threshold` in `bad` of the last `minutes`."""

    name: str
    metric: str
    statistic: str
    sign: str
    threshold: float
    bad: int
    minutes: int
    advice: str
    missing: str = "notBreaching"
    """What a minute without a value counts as."""


OF_GPUS = (
    Rule("GPU error", "GpuErrors", "Sum", ">", 0, 1, 1, "memory errors or remapped rows: replace the host"),
    Rule("GPU XID", "GpuXidErrors", "Sum", ">", 0, 1, 1, "the driver reports an error: see the log"),
    Rule("GPU lost", "GpuLost", "Maximum", ">", 0, 1, 1, "a GPU fell off the bus: replace the host"),
    Rule("GPU throttled", "GpuThrottledPercent", "Average", ">", 20, 5, 10, "heat or power brake"),
    Rule("GPU memory nearly full", "GpuMemoryUsedPercent", "Maximum", ">", 95, 3, 5, "smaller batch"),
)
OF_TRAINING = (
    Rule("GPU idle", "GpuUtilization", "Average", "<", 5, 15, 15, "paid for nothing: look at the log"),
    Rule("data-starved", "DataWaitPercent", "Average", ">", 30, 10, 15, "more workers, or shards"),
    Rule("straggler", "GpuUtilizationSpread", "Maximum", ">", 40, 10, 15, "one GPU does less"),
)
OF_SERVING = (
    Rule("idle endpoint", "Requests", "Sum", "<=", 0, 60, 60, "up, and asked nothing for an hour"),
    Rule("drift", "DriftPsi", "Maximum", ">", 0.25, 30, 60, "requests unlike the validation: see the log"),
    Rule("request errors", "RequestErrors", "Sum", ">", 0, 3, 5, "look at the endpoint's log"),
)
# Of one endpoint: of a finished job silence is right.
SILENCE = Rule(
    *("silence", "Requests", "SampleCount", "<", 1, 10, 10, "neither server nor metrics agent is heard"),
    missing="breaching",
)
COMPARISONS = {
    ">": "GreaterThanThreshold",
    "<": "LessThanThreshold",
    "<=": "LessThanOrEqualToThreshold",
}


@dataclass(frozen=True)
class Watched:
    """A project's training and serving, or one endpoint, or one job, that publish at `level`."""

    project: str
    endpoint: str | None
    variant: str
    job: str | None
    level: str

    @property
    def name(self) -> str:
        """Of the dashboard, and the beginning of the alarms'. Raises LaunchError."""
        name = "-".join(filter(None, (self.project, self.endpoint or self.job)))
        if not re.fullmatch(r"[\w-]{1,255}", name, re.ASCII):
            raise LaunchError(
                f"a dashboard cannot be named {name!r}: letters, digits, - and _ only; change --project"
            )
        return name

    @property
    def phases(self) -> tuple[str, ...]:
        if self.endpoint:
            return ("serving",)
        return ("training",) if self.job else ("training", "serving")

    def dimensions(self, phase: str, metric: str) -> dict[str, str]:
        """Of one series that is there at this level: the endpoint's, else the project's.

        A job's hosts have one each, and so, at the level `gpu`, have the GPUs and the figures of drift.
        """
        is_apart = self.level == "gpu" and metric in OF_PARTS
        if self.endpoint and self.level != "fleet" and not is_apart:
            return {"Project": self.project, "Endpoint": self.endpoint, "Variant": self.variant}
        return {"Project": self.project, "Phase": phase}

    def search(self, phase: str) -> tuple[tuple[str, ...], str]:
        """Dimension names and terms of a SEARCH for the series of hosts."""
        names = ("JobName", "Host") if phase == "training" else ("Endpoint", "Variant")
        wanted = {"Project": self.project, "JobName": self.job, "Endpoint": self.endpoint}
        return ("Project", *names), " ".join(f'{name}="{value}"' for name, value in wanted.items() if value)


def alarms(
    watched: Watched, topic: str | None, *, queue_milliseconds: float, request_milliseconds: float
) -> list[dict[str, Any]]:
    """Arguments of PutMetricAlarm, one for each alarm. The milliseconds are what nine of ten requests keep below."""
    slow = (
        Rule("queue", "QueueMilliseconds", "p90", ">", queue_milliseconds, 3, 5, "more instances"),
        Rule("latency", "RequestMilliseconds", "p90", ">", request_milliseconds, 3, 5, "see its stages"),
    )
    found = []
    for phase in watched.phases:
        rules = OF_GPUS + (OF_TRAINING if phase == "training" else OF_SERVING + slow)
        found += [_alarm(watched, phase, rule, topic) for rule in rules]
        if watched.endpoint:
            found.append(_alarm(watched, phase, SILENCE, topic))
    return found


def alarm_prefix(watched: Watched, phase: str) -> str:
    """With which the names of the alarms begin."""
    return f"{watched.name} {phase}: "


def _alarm(watched: Watched, phase: str, rule: Rule, topic: str | None) -> dict[str, Any]:
    name, metric, stat, sign, threshold, bad, minutes, advice, missing = rule
    dimensions = watched.dimensions(phase, metric)
    return {
        "AlarmName": alarm_prefix(watched, phase) + name,
        "AlarmDescription": f"{metric} ({stat}) {sign} {threshold:g} in {bad} of {minutes} minutes: {advice}",
        "Namespace": NAMESPACE,
        "MetricName": metric,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        "ExtendedStatistic" if stat.startswith("p") else "Statistic": stat,
        "Period": MINUTE,
        "DatapointsToAlarm": bad,
        "EvaluationPeriods": minutes,
        "Threshold": threshold,
        "ComparisonOperator": COMPARISONS[sign],
        "TreatMissingData": missing,
        **({"AlarmActions": [topic]} if topic else {}),
    }
