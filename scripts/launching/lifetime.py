"""`deploy --delete-after`: an endpoint for a while; whatever ends the command deletes it, so that it costs no more."""

import argparse
import contextlib
import re
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from launching import delete
from launching.calls import Aws, Call, LaunchError
from launching.errors import FAULTS, said
from launching.watch import say, wait

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, and a terminal that is closed."""
DELETIONS = {
    "create_model": ("delete_model", "ModelName"),
    "create_endpoint_config": ("delete_endpoint_config", "EndpointConfigName"),
    "create_endpoint": ("delete_endpoint", "EndpointName"),
    "create_inference_component": ("delete_inference_component", "InferenceComponentName"),
}
TARGET = ("ServiceNamespace", "ResourceId", "ScalableDimension")


class EndedEarlyError(BaseException):
    """A signal came. No KeyboardInterrupt, at which those who watch would only leave."""


def add_delete_after(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delete-after",
        metavar="TIME",
        help="let it serve for so long, as in 30m, 2h or 1d, then delete all that has its name; this command stays, "
        "and Ctrl-C, or a failure, deletes it at once",
    )


def seconds_of(text: str) -> int:
    """Of 90s, 30m, 2h or 1d. Raises LaunchError for anything else and for none at all."""
    match = re.fullmatch(r"([1-9]\d*)([smhd])", text)
    if not match:
        raise LaunchError(f"--delete-after {text!r}: a whole number and a unit, as in 90s, 30m, 2h or 1d")
    return int(match[1]) * UNITS[match[2]]


def deletions(calls: Sequence[Call]) -> list[Call]:
    """What `delete` will find to delete after these creations, in its order, for a dry run to show."""
    targets = [call for call in calls if call.method == "register_scalable_target"]
    alarms = [call.arguments["AlarmName"] for call in calls if call.method == "put_metric_alarm"]
    made: dict[str, list[Call]] = {method: [] for method in reversed(DELETIONS)}
    for call in calls:
        if call.method in made:
            method, key = DELETIONS[call.method]
            made[call.method].append(Call(call.client, method, {key: call.arguments[key]}))
    return [
        *(
            Call(call.client, "deregister_scalable_target", {key: call.arguments[key] for key in TARGET})
            for call in targets
        ),
        *([Call("cloudwatch", "delete_alarms", {"AlarmNames": alarms})] if alarms else []),
        *(call for row in made.values() for call in row),
    ]


@contextlib.contextmanager
def ending(options: argparse.Namespace, aws: Aws) -> Iterator[None]:
    """Around all that happens to an endpoint that is made; without --delete-after nothing.

    Raises LaunchError for a failure inside, and when something could not be deleted.
    """
    if not options.delete_after:
        yield
        return
    failure: BaseException | None = None
    try:
        with _signals():
            yield
    except (EndedEarlyError, *FAULTS) as error:
        failure = error
    told = f"{said(failure)}\n" if isinstance(failure, FAULTS) else ""
    say(f"deleting all that was launched as {options.name}")
    try:
        _delete(options, aws)
    except (*FAULTS, KeyboardInterrupt) as error:
        raise LaunchError(
            f"{told}{said(error)}\nnot all of {options.name} is deleted, and it may cost money. "
            f"To delete it: launch.py delete {options.name}"
        ) from None
    if told:
        raise LaunchError(f"{told}{options.name} is deleted, as --delete-after asks for") from None
    if failure:
        raise KeyboardInterrupt  # what the shell hears of Ctrl-C


def serve(options: argparse.Namespace) -> None:
    """The time of an endpoint that serves; by the clock, which goes on while the machine sleeps."""
    if not options.delete_after:
        return
    end = time.time() + seconds_of(options.delete_after)
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(end))
    told = [f"{options.name} serves until {until} UTC, then it is deleted; Ctrl-C deletes it now"]
    wait(lambda: (told, time.time() >= end), min(options.poll_seconds, max(0.0, end - time.time())))


def _delete(options: argparse.Namespace, aws: Aws) -> None:
    chosen = argparse.Namespace(name=options.name, wait=True, poll_seconds=options.poll_seconds)
    delete.run(chosen, delete.plan(chosen, aws), aws)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Each of ENDING ends the block, but for one that is ignored, as `nohup` does."""

    def end(*_: Any) -> None:
        raise EndedEarlyError

    before = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, end)
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
