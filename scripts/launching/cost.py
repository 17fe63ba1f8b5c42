"""`launch.py cost`: what runs now, and what it costs."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from launching.calls import Aws, Call
from launching.kinds import ENDPOINT, PROCESSING, TRAINING, TRANSFORM

HELP = "what runs and its price a day, where AWS tells it"
HOURS_A_DAY = 24
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
    return lists + [
        Call("sagemaker", kind.list, {"StatusEquals": "InProgress"})
        for kind in (TRAINING, TRANSFORM, PROCESSING)
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    prices = Prices(Aws(PRICES_REGION), aws.region)
    total, unknown, found = 0.0, 0, 0
    for running in _running(aws):
        found += 1
        if running.instance_type is None:
            print(f"{running.title:14} {running.name:40} serverless: by the request")
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
        counts = {
            row["VariantName"]: row.get("CurrentInstanceCount")
            for row in answer.get("ProductionVariants", [])
        }
        for row in [*config["ProductionVariants"], *config.get("ShadowProductionVariants", [])]:
            count = counts.get(row["VariantName"])
            count = row.get("InitialInstanceCount", 0) if count is None else count
            yield Running("endpoint", item["EndpointName"], row.get("InstanceType"), count, "Host")
    for kind, member, usage in (
        (TRAINING, ("ResourceConfig",), "Train"),
        (TRANSFORM, ("TransformResources",), "Tsform"),
        (PROCESSING, ("ProcessingResources", "ClusterConfig"), "Processing"),
    ):
        for item in aws.pages(Call("sagemaker", kind.list, {"StatusEquals": "InProgress"}), kind.summaries):
            answer = aws(kind.described(item[kind.name_key]))
            for name in member:
                answer = answer[name]
            yield Running(
                kind.title, item[kind.name_key], answer["InstanceType"], answer["InstanceCount"], usage
            )


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
