"""`launch.py deploy`: a trained model behind an HTTPS endpoint, watched until it serves."""

import argparse
import contextlib
import shlex
from collections.abc import Sequence

from botocore.exceptions import BotoCoreError, ClientError

from launching import components, lifetime, scaling
from launching.calls import Aws, Call, LaunchError, default_name
from launching.errors import said
from launching.kinds import COMPONENT, ENDPOINT, Kind
from launching.models import add_model, add_source, fill_in
from launching.registry import add_when_approved, look_at_newest, wait_for_approval
from launching.request import add_network, add_tags, tags
from launching.variants import add_hosting, add_variants, check_hosting, create_config, models, read_variants
from launching.watch import add_wait, follow, say

HELP = "make a model, an endpoint configuration and an endpoint, and wait until it serves"
# What takes a creation back; of an alarm `update` itself knows whether it had been there before.
UNDO = {
    "create_model": ("delete_model", "ModelName"),
    "create_endpoint_config": ("delete_endpoint_config", "EndpointConfigName"),
    "create_endpoint": ("delete_endpoint", "EndpointName"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, required=False).add_argument(
        "--models",
        metavar="S3_FOLDER",
        help="a multi-model endpoint: all model.tar.gz files below this folder",
    )
    add_model(parser)
    add_when_approved(parser)
    add = parser.add_argument
    add("--name", help="of the endpoint and of all that belongs to it; default: PROJECT and the time")
    add_hosting(parser)
    add_variants(parser)
    scaling.add_autoscale(parser)
    components.add_component(parser)
    lifetime.add_delete_after(parser)
    add_network(parser)
    add_tags(parser)
    add(
        "--resume",
        action="store_true",
        help="go on with a deploy whose watching was cut: the same words again",
    )
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Models, configuration and endpoint of one name; before them looks at jobs, after them the scaling.

    With --resume only what comes after; with --delete-after the deletions too.
    """
    named = options.name
    name = options.name = named or default_name(options.project)
    if options.resume and not named:
        raise LaunchError("--resume: give the --name of the endpoint")
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
    if options.delete_after:
        lifetime.seconds_of(options.delete_after)
        if not options.wait:
            raise LaunchError("--no-wait: --delete-after is done by this command, which must stay for it")
    if after and not options.wait:
        raise LaunchError("--no-wait: the endpoint must serve before it can be scaled or take a component")
    if options.resume:  # it was approved
        options.when_approved = False
    creations = [
        *look_at_newest(options),
        *models(options, name, name, variants),
        config,
        Call("sagemaker", "create_endpoint", endpoint),
        *after,
    ]
    deletions = lifetime.deletions(creations) if options.delete_after else []
    return [*(after if options.resume else creations), *deletions]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Make all of it or nothing, then wait. Raises LaunchError when the endpoint does not come up."""
    name = options.name
    if options.delete_after:  # `delete` looks again, as an `update` may have made more by then
        calls = [call for call in calls if not call.method.startswith(("delete_", "deregister_"))]
    calls = fill_in(list(wait_for_approval(options, calls, aws)), aws)
    first = next((place for place, call in enumerate(calls, 1) if call.method == "create_endpoint"), 0)
    after = calls[first:]
    if first:
        make_all_or_nothing(calls[:first], aws)
        until = "it is deleted" if options.delete_after else f"`launch.py delete {name}`"
        say(f"{ENDPOINT.accepted(name, aws.region)}; it costs money until {until}")
    if not options.wait:
        return
    # Only now: what is there under a name in use is not ours to delete.
    with lifetime.ending(options, aws):
        _bring_up(after, options, aws)
        lifetime.serve(options)


def _bring_up(after: Sequence[Call], options: argparse.Namespace, aws: Aws) -> None:
    """Wait until the endpoint serves, and make what needs that."""
    name = options.name
    resume = f"launch.py {shlex.join(_resuming(options))}" if after else None
    _follow(ENDPOINT, options, aws, resume)
    try:
        _finish(after, options, aws, resume)
    except (ClientError, BotoCoreError, KeyboardInterrupt) as error:
        raise LaunchError(
            f"{said(error)}\nendpoint {name} serves, but not all was made that scales it. To go on: {resume}"
        ) from None
    if options.asynchronous:
        print(f"next: launch.py invoke --endpoint {name} --async s3://BUCKET/FOLDER picture.jpg")
    else:
        print(f"next: launch.py invoke --endpoint {name} picture.jpg")


def _finish(after: Sequence[Call], options: argparse.Namespace, aws: Aws, resume: str | None) -> None:
    """What needs an endpoint that serves; all of it may be there already, when it is done again."""
    arns: dict[str, str] = {}
    for call in after:
        if call.method == "create_inference_component":
            if not (options.resume and aws.found(COMPONENT.described(options.name))):
                aws(call)
            _follow(COMPONENT, options, aws, resume)
            continue
        answer = aws(scaling.fill_in_policy(call, arns))
        if call.method == "put_scaling_policy":
            arns[scaling.POLICY_ARN.format(name=call.arguments["PolicyName"])] = answer["PolicyARN"]


def _resuming(options: argparse.Namespace) -> list[str]:
    """The words that were given, and those with which they only finish what is begun."""
    words = [*map(str, options.words)]
    if not any(word == "--name" or word.startswith("--name=") for word in words):
        words += ["--name", options.name]
    return words if options.resume else [*words, "--resume"]


def make_all_or_nothing(calls: Sequence[Call], aws: Aws) -> None:
    """Several creations; where one fails, those before it are taken back."""
    made: list[Call] = []
    try:
        for call in calls:
            aws(call)
            made.append(call)
    except (ClientError, BotoCoreError, KeyboardInterrupt):
        for call in reversed(made):
            if call.method not in UNDO:
                continue
            method, key = UNDO[call.method]
            # The failure to report is the one that brought us here.
            with contextlib.suppress(ClientError, BotoCoreError):
                aws(Call("sagemaker", method, {key: call.arguments[key]}))
        raise


def _follow(kind: Kind, options: argparse.Namespace, aws: Aws, resume: str | None) -> None:
    try:
        follow(kind, options.name, options, aws, resume)
    except LaunchError as error:
        if options.delete_after:
            raise
        raise LaunchError(f"{error}\nRemove it with: launch.py delete {options.name}") from None
