"""`launch.py deploy`: a trained model behind an HTTPS endpoint, watched until it serves."""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from launching import components, scaling
from launching.calls import Aws, Call, LaunchError, default_name
from launching.kinds import COMPONENT, ENDPOINT
from launching.models import add_model, add_source, fill_in
from launching.request import add_network, add_tags, tags
from launching.variants import add_hosting, add_variants, check_hosting, create_config, models, read_variants
from launching.watch import add_wait, follow, say

HELP = "make a model, an endpoint configuration and an endpoint, and wait until it serves"
UNDO = {
    "create_model": ("delete_model", "ModelName"),
    "create_endpoint_config": ("delete_endpoint_config", "EndpointConfigName"),
    "create_endpoint": ("delete_endpoint", "EndpointName"),
}
WAITED_FOR = {
    "create_endpoint": (ENDPOINT, "EndpointName"),
    "create_inference_component": (COMPONENT, "InferenceComponentName"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, required=False).add_argument(
        "--models",
        metavar="S3_FOLDER",
        help="a multi-model endpoint: all model.tar.gz files below this folder",
    )
    add_model(parser)
    add = parser.add_argument
    add("--name", help="of the endpoint and of all that belongs to it; default: PROJECT and the time")
    add_hosting(parser)
    add_variants(parser)
    scaling.add_autoscale(parser)
    components.add_component(parser)
    add_network(parser)
    add_tags(parser)
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Models, configuration and endpoint of one name; before them looks at jobs, after them the scaling."""
    name = options.name = options.name or default_name(options.project)
    variants = read_variants(options)
    check_hosting(options, variants)
    endpoint = {"EndpointName": name, "EndpointConfigName": name, "Tags": tags(options, name)}
    after: list[Call] = []
    if options.inference_component:
        config = components.create_config(options, name, variants)
        after = components.create(options, name)
    else:
        config = create_config(options, name, name, variants)
        if options.autoscale:
            if options.serverless:
                raise LaunchError("a serverless endpoint scales by itself: no --autoscale")
            serving = [variant.name for variant in variants if not variant.is_shadow]
            after = (
                scaling.of_async(options, name, serving[0])
                if options.asynchronous
                else scaling.of_variants(options, name, serving)
            )
    if after and not options.wait:
        raise LaunchError("--no-wait: the endpoint must serve before it can be scaled or take a component")
    return [
        *models(options, name, name, variants),
        config,
        Call("sagemaker", "create_endpoint", endpoint),
        *after,
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Make all of it or nothing, then wait. Raises LaunchError when the endpoint does not come up."""
    name = options.name
    calls = fill_in(list(calls), aws)
    first = next(place for place, call in enumerate(calls) if call.method == "create_endpoint") + 1
    make_all_or_nothing(calls[:first], aws)
    say(f"endpoint {name} is accepted; it costs money until `launch.py delete {name}`")
    if not options.wait:
        return
    _follow(calls[first - 1], options, aws)
    arns: dict[str, str] = {}
    for call in calls[first:]:
        answer = aws(scaling.fill_in_policy(call, arns))
        if call.method == "put_scaling_policy":
            arns[scaling.POLICY_ARN.format(name=call.arguments["PolicyName"])] = answer["PolicyARN"]
        elif call.method == "create_inference_component":
            _follow(call, options, aws)
    if options.asynchronous:
        print(f"next: launch.py invoke --endpoint {name} --async s3://BUCKET/FOLDER picture.jpg")
    else:
        print(f"next: launch.py invoke --endpoint {name} picture.jpg")


def make_all_or_nothing(calls: Sequence[Call], aws: Aws) -> None:
    """Several creations; where AWS refuses one, those before it are taken back."""
    made: list[Call] = []
    try:
        for call in calls:
            aws(call)
            made.append(call)
    except (ClientError, KeyboardInterrupt):
        for call in reversed(made):
            method, key = UNDO[call.method]
            with contextlib.suppress(ClientError):  # the refusal to report is the one that brought us here
                aws(Call("sagemaker", method, {key: call.arguments[key]}))
        raise


def _follow(call: Call, options: argparse.Namespace, aws: Aws) -> dict[str, Any]:
    kind, key = WAITED_FOR[call.method]
    try:
        return follow(kind, call.arguments[key], options, aws)
    except LaunchError as error:
        raise LaunchError(f"{error}\nRemove it with: launch.py delete {options.name}") from None
