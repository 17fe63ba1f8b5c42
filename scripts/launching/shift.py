"""`launch.py shift`: the traffic of an endpoint from its other variants to one, in steps, and back at an alarm."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from launching import alarms
from launching.calls import Aws, Call, LaunchError
from launching.errors import FAULTS, said
from launching.kinds import ENDPOINT
from launching.watch import add_watch, post_mortem, say, story, wait

HELP = "move an endpoint's traffic to one of its variants, step by step, with a way back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--endpoint", required=True, metavar="NAME")
    add("--to", required=True, metavar="VARIANT")
    add("--steps", default="10,50,100", metavar="PERCENT,...", help="its share of the traffic (%(default)s)")
    add("--step-seconds", type=float, default=300, help="for the alarms to see each step (%(default)s)")
    alarms.add_guard(parser)
    add_watch(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Alarms, then one change of weights for each step. Looks at the endpoint, to know its variants."""
    steps = _steps(options.steps)
    answer = aws(ENDPOINT.described(options.endpoint))
    weights = _weights(answer)
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
    """Raises LaunchError when an alarm rang, or anything else ended it early; then all weights are as before."""
    for call in calls:
        if call.client == "cloudwatch":
            aws(call)
    try:
        for call in calls:
            if call.client == "sagemaker":
                aws(call)
                say(_told(call))
                _settle(options, aws)
                _watch_alarms(options, aws)
    except BaseException as error:  # whatever it is, the traffic must not stay half-way without a word
        told = _go_back(options, error, aws)
        if isinstance(error, (*FAULTS, KeyboardInterrupt)):
            raise LaunchError(told) from None
        raise
    say(f"{options.to} has {_steps(options.steps)[-1]:g} % of the traffic of {options.endpoint}")


def _told(change: Call) -> str:
    rows = change.arguments["DesiredWeightsAndCapacities"]
    return ", ".join(f"{row['VariantName']} {row['DesiredWeight']:g} %" for row in rows)


def _settle(options: argparse.Namespace, aws: Aws) -> dict[str, float]:
    """Until the change is done, for while the endpoint is Updating AWS takes no other one; the weights then.

    Raises LaunchError where the endpoint ends otherwise than InService.
    """
    answer: dict[str, Any] = {}

    def look() -> tuple[list[str], bool]:
        answer.update(aws(ENDPOINT.described(options.endpoint)))
        return story(ENDPOINT, answer), answer[ENDPOINT.status_key] not in ENDPOINT.underway

    wait(look, options.poll_seconds)
    if answer[ENDPOINT.status_key] != ENDPOINT.good:
        raise LaunchError(post_mortem(ENDPOINT, options.endpoint, answer, aws))
    return _weights(answer)


def _go_back(options: argparse.Namespace, error: BaseException, aws: Aws) -> str:
    """Put the weights back; what to tell of it, with the command that does it where that fails too."""
    before = _change(options.endpoint, options.weights_before)
    say(f"back to {_told(before)}: {said(error)}")
    try:
        if _settle(options, aws) != options.weights_before:
            wait(lambda: ([], aws(before) is not None), options.poll_seconds)
            _settle(options, aws)
    except (*FAULTS, KeyboardInterrupt) as second:
        rows = (
            f"VariantName={name},DesiredWeight={weight:g}" for name, weight in options.weights_before.items()
        )
        return (
            f"{said(error)}\nand the weights could not be put back: {said(second)}\n"
            "The traffic may still be shifted. To put it back: "
            f"aws sagemaker update-endpoint-weights-and-capacities --endpoint-name {options.endpoint} "
            f"--region {aws.region} --desired-weights-and-capacities {' '.join(rows)}"
        )
    return f"all weights are as before: {said(error)}"


def _weights(answer: dict[str, Any]) -> dict[str, float]:
    return {
        row["VariantName"]: row.get("DesiredWeight", row.get("CurrentWeight", 1))
        for row in answer["ProductionVariants"]
    }


def _watch_alarms(options: argparse.Namespace, aws: Aws) -> None:
    """The time of a step, in which no alarm may ring. A cut line or a busy service does not end it."""
    deadline = time.monotonic() + options.step_seconds

    def look() -> tuple[list[str], bool]:
        if rung := alarms.ringing(options.alarm_names, aws):
            raise LaunchError("an alarm rang: " + "; ".join(rung))
        return ["no alarm rings"], time.monotonic() >= deadline

    wait(look, min(options.poll_seconds, options.step_seconds or options.poll_seconds))
