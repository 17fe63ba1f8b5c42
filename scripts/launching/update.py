"""`launch.py update`: another model behind a running endpoint, in steps, and back by itself when an alarm rings.

SageMaker's deployment guardrails: new instances come up beside the old ones, get the traffic step by step, and the
old ones go only when no alarm has rung.
"""

import argparse
import contextlib
import time
from collections.abc import Sequence

from botocore.exceptions import BotoCoreError, ClientError

from launching import alarms
from launching.calls import Aws, Call, LaunchError
from launching.deploy import make_all_or_nothing
from launching.kinds import ENDPOINT
from launching.models import add_model, add_source, fill_in
from launching.registry import add_when_approved, look_at_newest, wait_for_approval
from launching.request import add_network, add_tags
from launching.variants import (
    CUT_CHARACTERS,
    VARIANT,
    add_hosting,
    check_hosting,
    create_config,
    models,
    read_variants,
)
from launching.watch import add_wait, follow, say

HELP = "put another model behind an endpoint, step by step, with a way back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", required=True, metavar="NAME")
    add_source(parser)
    add_model(parser)
    add_when_approved(parser)
    add_hosting(parser)
    add = parser.add_argument
    add(
        "--step-percent",
        type=int,
        default=25,
        metavar="N",
        help="of the instances a step, 10 to 50; 100: all at once",
    )
    add("--canary", action="store_true", help="one small step, then the rest, instead of equal steps")
    add("--step-seconds", type=int, default=300, help="between steps (%(default)s)")
    alarms.add_guard(parser)
    add_network(parser)
    add_tags(parser)
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Model and configuration of a new name, the alarms, and the update."""
    endpoint = options.endpoint
    options.variant, options.shadow = [], None
    variants = read_variants(options)
    check_hosting(options, variants)
    if options.serverless or options.asynchronous:
        raise LaunchError(
            "update: a serverless endpoint has no steps, and an asynchronous one no such traffic"
        )
    if options.step_percent != 100 and not 10 <= options.step_percent <= 50:
        raise LaunchError(f"--step-percent {options.step_percent}: from 10 to 50, or 100")
    config = f"{endpoint[:CUT_CHARACTERS]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    guards = alarms.guards(options, endpoint, VARIANT)
    policy: dict[str, object] = {
        "Type": "ALL_AT_ONCE" if options.step_percent == 100 else "CANARY" if options.canary else "LINEAR",
        "WaitIntervalInSeconds": options.step_seconds,
    }
    if options.step_percent != 100:
        size = {"Type": "CAPACITY_PERCENT", "Value": options.step_percent}
        policy["CanarySize" if options.canary else "LinearStepSize"] = size
    request = {
        "EndpointName": endpoint,
        "EndpointConfigName": config,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": policy,
                "TerminationWaitInSeconds": options.step_seconds,
            },
            "AutoRollbackConfiguration": {
                "Alarms": [{"AlarmName": name} for name in alarms.names(options, guards)]
            },
        },
    }
    return [
        *look_at_newest(options),
        *models(options, endpoint, config, variants),
        create_config(options, endpoint, config, variants),
        *guards,
        Call("sagemaker", "update_endpoint", request),
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Raises LaunchError when the endpoint went back to the old model."""
    calls = fill_in(list(wait_for_approval(options, calls, aws)), aws)
    update = calls[-1]
    config = update.arguments["EndpointConfigName"]
    guards = [call.arguments["AlarmName"] for call in calls if call.client == "cloudwatch"]
    older = alarms.existing(guards, aws)
    try:
        make_all_or_nothing(calls, aws)
    except (ClientError, BotoCoreError, KeyboardInterrupt):
        with contextlib.suppress(ClientError, BotoCoreError):
            aws(
                Call(
                    "cloudwatch",
                    "delete_alarms",
                    {"AlarmNames": [name for name in guards if name not in older]},
                )
            )
        raise
    say(f"endpoint {options.endpoint} takes the new model step by step")
    if not options.wait:
        return
    answer = follow(ENDPOINT, options.endpoint, options, aws)
    if answer["EndpointConfigName"] != config:
        raise LaunchError(
            f"endpoint {options.endpoint} went back to {answer['EndpointConfigName']}: "
            f"{answer.get('FailureReason') or 'an alarm rang'}"
        )
    print(
        f"endpoint {options.endpoint} serves the new model; `launch.py delete` removes the old one's parts too"
    )
