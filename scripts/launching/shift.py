"""`launch.py shift`: the traffic of an endpoint from its other variants to one, in steps, and back at an alarm."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from launching import alarms
from launching.calls import Aws, Call, LaunchError
from launching.kinds import ENDPOINT
from launching.watch import add_wait, follow, say

HELP = "move an endpoint's traffic to one of its variants, step by step, with a way back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--endpoint", required=True, metavar="NAME")
    add("--to", required=True, metavar="VARIANT")
    add("--steps", default="10,50,100", metavar="PERCENT,...", help="its share of the traffic (%(default)s)")
    add("--step-seconds", type=float, default=300, help="for the alarms to see each step (%(default)s)")
    alarms.add_guard(parser)
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Alarms, then one change of weights for each step. Looks at the endpoint, to know its variants."""
    steps = _steps(options.steps)
    answer = aws(ENDPOINT.described(options.endpoint))
    weights = {row["VariantName"]: row.get("CurrentWeight", 1) for row in answer["ProductionVariants"]}
    if options.to not in weights or len(weights) < 2:
        raise LaunchError(
            f"endpoint {options.endpoint} has the variants {', '.join(weights)}: nothing to shift to {options.to}"
        )
    options.weights_before = weights
    guards = alarms.guards(options, options.endpoint, options.to)
    options.alarm_names = alarms.names(options, guards)
    return [*guards, *(_change(options.endpoint, _shared(weights, options.to, step)) for step in steps)]


def _steps(text: str) -> list[float]:
    try:
        steps = [float(step) for step in text.split(",")]
    except ValueError:
        steps = []
    if not steps or steps != sorted(set(steps)) or not 0 <= steps[0] <= steps[-1] <= 100:
        raise LaunchError(f"--steps {text!r} must be rising percentages up to 100, as 10,50,100")
    return steps


def _shared(weights: dict[str, float], to: str, percent: float) -> dict[str, float]:
    """The others keep their shares of what is left."""
    others = {name: weight for name, weight in weights.items() if name != to}
    total = sum(others.values())
    left = 100 - percent
    shares = {name: left * (weight / total if total else 1 / len(others)) for name, weight in others.items()}
    return {to: percent, **shares}


def _change(endpoint: str, weights: dict[str, float]) -> Call:
    rows: list[dict[str, Any]] = [
        {"VariantName": name, "DesiredWeight": weight} for name, weight in weights.items()
    ]
    request = {"EndpointName": endpoint, "DesiredWeightsAndCapacities": rows}
    return Call("sagemaker", "update_endpoint_weights_and_capacities", request)


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Raises LaunchError when an alarm rang; then all weights are as before."""
    for call in calls:
        if call.client == "cloudwatch":
            aws(call)
    changes = [call for call in calls if call.client == "sagemaker"]
    try:
        for call in changes:
            aws(call)
            rows = call.arguments["DesiredWeightsAndCapacities"]
            say(", ".join(f"{row['VariantName']} {row['DesiredWeight']:g} %" for row in rows))
            follow(ENDPOINT, options.endpoint, options, aws)
            _watch_alarms(options, aws)
    except (LaunchError, KeyboardInterrupt) as error:
        aws(_change(options.endpoint, options.weights_before))
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        raise LaunchError(f"all weights are as before: {reason}") from None
    say(f"{options.to} has {rows[0]['DesiredWeight']:g} % of the traffic of {options.endpoint}")


def _watch_alarms(options: argparse.Namespace, aws: Aws) -> None:
    deadline = time.monotonic() + options.step_seconds
    while True:
        if rung := alarms.ringing(options.alarm_names, aws):
            raise LaunchError("an alarm rang: " + "; ".join(rung))
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, options.poll_seconds))
