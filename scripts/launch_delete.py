"""`launch.py delete`: what `deploy` made, so that it costs no more."""

import argparse
from collections.abc import Sequence

from botocore.exceptions import ClientError

from launch_calls import Aws, Call

HELP = "delete an endpoint, its configuration and its model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", required=True, metavar="NAME")


def plan(options: argparse.Namespace) -> list[Call]:
    """The endpoint first: it is what costs, and it uses the others. `deploy` gave all three one name."""
    return [
        Call("sagemaker", "delete_endpoint", {"EndpointName": options.endpoint}),
        Call("sagemaker", "delete_endpoint_config", {"EndpointConfigName": options.endpoint}),
        Call("sagemaker", "delete_model", {"ModelName": options.endpoint}),
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    for call in calls:
        what = call.method.removeprefix("delete_").replace("_config", " configuration")
        try:
            aws(call)
            print(f"{what} {options.endpoint} is deleted")
        except ClientError as error:
            if "could not find" not in error.response["Error"]["Message"].lower():
                raise
            print(f"{what} {options.endpoint} is not there")
