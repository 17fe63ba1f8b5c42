"""For `dashboard.py`: what is watched, and the alarms on it.

The log's way into CloudWatch takes a minute or two, and points may come late: no alarm goes by a single one,
but for errors, and what is missing is no breach, but for silence.
"""

import re
from dataclasses import dataclass
from typing import Any

from launching.calls import LaunchError
from metrics_queries import NAMESPACE

MINUTE = 60


@dataclass(frozen=True)
class Watched:
    """A project's training and serving, or one endpoint, or one job."""

    project: str
    endpoint: str | None
    variant: str
    job: str | None

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
        """Of one series: the endpoint's for what its server does, else the project's.

        A GPU's figures have the endpoint's own only below METRICS_LEVEL=gpu, and a job's hosts have one each.
        """
        if self.endpoint and not metric.startswith("Gpu"):
            return {"Project": self.project, "Endpoint": self.endpoint, "Variant": self.variant}
        return {"Project": self.project, "Phase": phase}

    def search(self, phase: str) -> tuple[tuple[str, ...], str]:
        """Dimension names and terms of a SEARCH for the series of hosts."""
        if phase == "training":
            terms = f'JobName="{self.job}"' if self.job else ""
            return ("Project", "JobName", "Host"), f'Project="{self.project}" {terms}'.strip()
        terms = f'Endpoint="{self.endpoint}"' if self.endpoint else ""
        return ("Project", "Endpoint", "Variant"), f'Project="{self.project}" {terms}'.strip()


def alarms(watched: Watched, topic: str | None, queue_milliseconds: float) -> list[dict[str, Any]]:
    """Arguments of PutMetricAlarm, one for each alarm."""
    found = []
    for phase in watched.phases:
        alarm = _Alarms(watched, phase, topic)
        found += [
            alarm(
                "GPU error",
                "GpuErrors",
                "Sum",
                ">",
                0,
                1,
                1,
                "memory errors or remapped rows: replace the host",
            ),
            alarm("GPU XID", "GpuXidErrors", "Sum", ">", 0, 1, 1, "the driver reports an error: see the log"),
            alarm("GPU lost", "GpuLost", "Maximum", ">", 0, 1, 1, "a GPU fell off the bus: replace the host"),
            alarm("GPU throttled", "GpuThrottledPercent", "Average", ">", 20, 5, 10, "heat or power brake"),
            alarm(
                "GPU memory nearly full", "GpuMemoryUsedPercent", "Maximum", ">", 95, 3, 5, "smaller batch"
            ),
        ]
        if phase == "training":
            found += [
                alarm(
                    "GPU idle",
                    "GpuUtilization",
                    "Average",
                    "<",
                    5,
                    15,
                    15,
                    "paid for nothing: look at the log",
                ),
                alarm(
                    "data-starved", "DataWaitPercent", "Average", ">", 30, 10, 15, "more workers, or shards"
                ),
                alarm("straggler", "GpuUtilizationSpread", "Maximum", ">", 40, 10, 15, "one GPU does less"),
            ]
        else:
            found += [
                alarm(
                    "idle endpoint", "Requests", "Sum", "<=", 0, 60, 60, "up, and asked nothing for an hour"
                ),
                alarm("queue", "QueueMilliseconds", "p90", ">", queue_milliseconds, 3, 5, "more instances"),
                alarm(
                    "drift",
                    "DriftPsi",
                    "Maximum",
                    ">",
                    0.25,
                    30,
                    60,
                    "requests unlike the validation: see the log",
                ),
                alarm("request errors", "RequestErrors", "Sum", ">", 0, 3, 5, "look at the endpoint's log"),
            ]
        if watched.endpoint:  # of a finished job silence is right
            silence = alarm(
                "silence",
                "Requests",
                "SampleCount",
                "<",
                1,
                10,
                10,
                "neither server nor metrics agent is heard",
            )
            found.append({**silence, "TreatMissingData": "breaching"})
    return found


class _Alarms:
    """Makes the alarms of one phase, each of `bad` minutes of the last `minutes`."""

    def __init__(self, watched: Watched, phase: str, topic: str | None) -> None:
        self._watched, self._phase, self._topic = watched, phase, topic

    def __call__(
        self,
        name: str,
        metric: str,
        stat: str,
        sign: str,
        threshold: float,
        bad: int,
        minutes: int,
        advice: str,
    ) -> dict[str, Any]:
        comparison = {
            ">": "GreaterThanThreshold",
            "<": "LessThanThreshold",
            "<=": "LessThanOrEqualToThreshold",
        }
        dimensions = self._watched.dimensions(self._phase, metric)
        statistic = "ExtendedStatistic" if stat.startswith("p") else "Statistic"
        return {
            "AlarmName": f"{self._watched.name} {self._phase}: {name}",
            "AlarmDescription": f"{metric} ({stat}) {sign} {threshold:g} in {bad} of {minutes} minutes: {advice}",
            "Namespace": NAMESPACE,
            "MetricName": metric,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            statistic: stat,
            "Period": MINUTE,
            "DatapointsToAlarm": bad,
            "EvaluationPeriods": minutes,
            "Threshold": threshold,
            "ComparisonOperator": comparison[sign],
            "TreatMissingData": "notBreaching",
            **({"AlarmActions": [self._topic]} if self._topic else {}),
        }
