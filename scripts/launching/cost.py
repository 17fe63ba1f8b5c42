"""`launch.py cost`: what runs now, and what it costs."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from launching.calls import Aws, Call
from launching.kinds import ENDPOINT, PROCESSING, TRAINING, TRANSFORM

HELP = "what runs and its price a day, where AWS tells it"
HOURS_A_DAY = 24
WARM_POOLS = Call("sagemaker", "list_training_jobs", {"WarmPoolStatusEquals": "Available"})
"""Of jobs that have ended; a pool in use is its new job's."""
PRICES_REGION = "us-east-1"  # the price list has an address in few regions, and knows all of them


@dataclass(frozen=True)
class Running:
    title: str
    name: str
    instance_type: str | None
    count: int
    usage: str
    """How the price list marks the usage."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Looks only."""
    lists = [Call("sagemaker", "list_endpoints", {})]
    lists += [
        Call("sagemaker", kind.list, {"StatusEquals": "InProgress"})
        for kind in (TRAINING, TRANSFORM, PROCESSING)
    ]
    return [*lists, WARM_POOLS]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    prices = Prices(Aws(PRICES_REGION), aws.region)
    total, unknown, found = 0.0, 0, 0
    for running in _running(aws):
        found += 1
        if running.count == 0 or running.instance_type is None:
            words = "no instance now" if running.instance_type else "serverless: by the request"
            print(f"{running.title:14} {running.name:40} {words}")
            continue
        hourly = prices.hourly_usd(running.instance_type, running.usage)
        price = "price unknown"
        if hourly is None:
            unknown += 1
        else:
            a_day = hourly * running.count * HOURS_A_DAY
            total += a_day
            price = f"{a_day:.2f} USD a day"
        print(f"{running.title:14} {running.name:40} {running.count} x {running.instance_type}: {price}")
    if not found:
        print("nothing runs, nothing to pay by the hour")
        return
    missing = f", without {unknown} of unknown price" if unknown else ""
    print(f"together {total:.2f} USD a day at list prices{missing}")


def _running(aws: Aws) -> Iterator[Running]:
    for item in aws.pages(Call("sagemaker", "list_endpoints", {}), "Endpoints"):
        answer = aws(ENDPOINT.described(item["EndpointName"]))
        config = aws(
            Call(
                "sagemaker", "describe_endpoint_config", {"EndpointConfigName": answer["EndpointConfigName"]}
            )
        )
        there = {row["VariantName"]: row for row in answer.get("ProductionVariants", [])}
        there |= {row["VariantName"]: row for row in answer.get("ShadowProductionVariants", [])}
        for row in [*config["ProductionVariants"], *config.get("ShadowProductionVariants", [])]:
            for instance_type, count in _instances(row, there.get(row["VariantName"], {})):
                yield Running("endpoint", item["EndpointName"], instance_type, count, "Host")
    for kind, usage in ((TRAINING, "Train"), (TRANSFORM, "Tsform"), (PROCESSING, "Processing")):
        for item in aws.pages(Call("sagemaker", kind.list, {"StatusEquals": "InProgress"}), kind.summaries):
            answer = aws(kind.described(item[kind.name_key]))
            for instance_type, count in _cluster(answer):
                yield Running(kind.title, item[kind.name_key], instance_type, count, usage)
    for item in aws.pages(WARM_POOLS, TRAINING.summaries):
        answer = aws(TRAINING.described(item[TRAINING.name_key]))
        for instance_type, count in _cluster(answer):
            yield Running("warm pool of", item[TRAINING.name_key], instance_type, count, "Train")


def _instances(configured: dict[str, Any], there: dict[str, Any]) -> list[tuple[str | None, int]]:
    """A variant's instances, as they are now or, where AWS does not say, as they were asked for; serverless: None."""
    if "ServerlessConfig" in configured:
        return [(None, 0)]
    if pools := there.get("InstancePools"):
        return [(pool["InstanceType"], pool.get("CurrentInstanceCount", 0)) for pool in pools]
    count = there.get("CurrentInstanceCount", configured.get("InitialInstanceCount", 0))
    if pools := configured.get("InstancePools"):  # the first choice, until AWS tells
        return [(min(pools, key=lambda pool: pool.get("Priority", 0))["InstanceType"], count)]
    return [(configured.get("InstanceType"), count)]


def _cluster(answer: dict[str, Any]) -> list[tuple[str | None, int]]:
    """The instances of a job."""
    resources: dict[str, Any] = (
        answer.get("ResourceConfig")
        or answer.get("TransformResources")
        or answer.get("ProcessingResources", {}).get("ClusterConfig")
        or {}
    )
    if groups := resources.get("InstanceGroups"):
        return [(group["InstanceType"], group["InstanceCount"]) for group in groups]
    # Of several that would do, AWS tells which one it took.
    instance_type = resources.get("SelectedInstanceType") or resources.get("InstanceType")
    count = resources.get("SelectedInstanceCount") or resources.get("InstanceCount", 0)
    return [(instance_type, count)] if instance_type else []


class Prices:
    """AWS's price list; asked once for each instance type and use."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._aws, self._region = aws, region
        self._known: dict[tuple[str, str], float | None] = {}

    def hourly_usd(self, instance_type: str, usage: str) -> float | None:
        """On demand; None where it cannot be told without a doubt."""
        key = (instance_type, usage)
        if key not in self._known:
            self._known[key] = self._ask(instance_type, usage)
        return self._known[key]

    def _ask(self, instance_type: str, usage: str) -> float | None:
        fields = {"regionCode": self._region, "instanceName": instance_type}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in fields.items()]
        look = Call("pricing", "get_products", {"ServiceCode": "AmazonSageMaker", "Filters": filters})
        try:
            products = [json.loads(text) for text in self._aws.pages(look, "PriceList")]
        except (ClientError, BotoCoreError):  # no permission, no such address: then without prices
            return None
        prices = {
            float(dimension["pricePerUnit"]["USD"])
            for product in products
            if product["product"]["attributes"].get("usagetype", "").endswith(f"-{usage}:{instance_type}")
            for offer in product["terms"].get("OnDemand", {}).values()
            for dimension in offer["priceDimensions"].values()
        }
        return prices.pop() if len(prices) == 1 else None
