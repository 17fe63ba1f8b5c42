"""For `dashboard.py`, `show_metrics.py` and `doctor.py`: the containers' metrics, asked of CloudWatch again."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from launching.calls import LaunchError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from metrics.cloudwatch import LEVELS, NAMESPACE
from metrics.period import DRIFT_FIGURES, GPU_FIGURES

__all__ = ["LEVELS", "NAMESPACE", "OF_PARTS", "Curve", "add_region", "curves", "one_line_errors"]
OF_PARTS = {*GPU_FIGURES, *DRIFT_FIGURES.values()}
"""The metrics that METRICS_LEVEL=gpu keeps apart by the dimension `Gpu` or `Figure`."""
QUERIES_PER_CALL = 500
"""Of GetMetricData (CloudWatch API reference)."""


@dataclass(frozen=True)
class Curve:
    """One statistic of one series: points of a minute each, oldest first."""

    metric: str
    dimensions: Mapping[str, str]
    times: tuple[datetime, ...]
    values: tuple[float, ...]

    @property
    def owner(self) -> str:
        """Which host or variant, and which GPU or figure of it, where these are told apart."""
        parts = {"Host": "", "Variant": "", "Gpu": "GPU ", "Figure": ""}
        return " ".join(
            f"{word}{self.dimensions[name]}" for name, word in parts.items() if name in self.dimensions
        )


def add_region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region", default=os.environ.get("AWS_REGION") or None, help="default: your AWS profile's"
    )


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the program with one line when AWS cannot be asked, or refuses."""
    try:
        yield
    except LaunchError as error:
        sys.exit(f"{program}: {error}")
    except NoCredentialsError:
        sys.exit(f"{program}: no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
    except NoRegionError:
        sys.exit(f"{program}: no AWS region: give --region, or set AWS_REGION")
    except ClientError as error:
        reason = error.response["Error"]
        message = " ".join(reason["Message"].split())
        sys.exit(f"{program}: AWS refused {error.operation_name}: {reason['Code']}: {message}")
    except (BotoCoreError, Boto3Error, OSError) as error:
        sys.exit(f"{program}: {' '.join(str(error).split())}")


def curves(
    client: BaseClient, owners: Iterable[Mapping[str, str]], begin: datetime, end: datetime
) -> list[Curve]:
    """The minutes' means of everything published between two times under dimensions that include one of `owners`."""
    listed = (
        metric
        for owner in owners
        for page in client.get_paginator("list_metrics").paginate(
            Namespace=NAMESPACE,
            Dimensions=[{"Name": name, "Value": value} for name, value in owner.items()],
        )
        for metric in page["Metrics"]
    )
    # Once each, also where a list repeats one (moto's does).
    series = list({(one["MetricName"], json.dumps(one["Dimensions"])): one for one in listed}.values())
    queries = [
        {
            "Id": f"q{number}",
            "MetricStat": {
                "Metric": {key: metric[key] for key in ("Namespace", "MetricName", "Dimensions")},
                "Period": 60,
                "Stat": "Average",
            },
        }
        for number, metric in enumerate(series)
    ]
    found: dict[str, list[tuple[datetime, float]]] = {}
    for start in range(0, len(queries), QUERIES_PER_CALL):
        pages = client.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries[start : start + QUERIES_PER_CALL],
            StartTime=begin.replace(second=0, microsecond=0),  # CloudWatch rounds it down anyway
            EndTime=end,
        )
        for result in (result for page in pages for result in page["MetricDataResults"]):
            points = zip(result["Timestamps"], result["Values"], strict=True)
            found.setdefault(result["Id"], []).extend(points)
    curves = []
    for number, metric in enumerate(series):
        if points := sorted(found.get(f"q{number}", [])):
            times, values = zip(*points, strict=True)
            dimensions = {one["Name"]: one["Value"] for one in metric["Dimensions"]}
            curves.append(Curve(metric["MetricName"], dimensions, times, values))
    return sorted(curves, key=lambda curve: (curve.metric, curve.owner))
