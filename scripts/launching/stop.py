"""`launch.py stop`: end a job before its time; training writes a checkpoint and its model first."""

import argparse
from collections.abc import Sequence

from launching.calls import Aws, Call, LaunchError
from launching.kinds import KINDS, Kind, find
from launching.watch import add_wait, say, story, wait

HELP = "end a job before its time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the job")
    add_wait(parser, default=False)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """One stop for each job of that name that runs. Raises LaunchError where there is none."""
    calls = [
        Call("sagemaker", kind.stop, {kind.name_key: options.name})
        for kind, answer in find(options.name, aws)
        if kind.stop and answer[kind.status_key] in kind.underway
    ]
    if not calls:
        raise LaunchError(
            f"no job {options.name} runs; an endpoint ends by `launch.py delete {options.name}`"
        )
    return calls


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    for call in calls:
        aws(call)
        kind = next(kind for kind in KINDS if kind.stop == call.method)
        say(f"{kind.title} {options.name} is asked to stop; its container has 120 s")
        if options.wait:
            wait(lambda kind=kind: _look(kind, options.name, aws), options.poll_seconds)


def _look(kind: Kind, name: str, aws: Aws) -> tuple[list[str], bool]:
    answer = aws(kind.described(name))
    return story(kind, answer), answer[kind.status_key] not in kind.underway
