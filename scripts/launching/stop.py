"""`launch.py stop`: end a job before its time; training writes a checkpoint and its model first."""

import argparse
from collections.abc import Sequence

from launching import runs
from launching.calls import Aws, Call, LaunchError
from launching.kinds import KINDS, find
from launching.watch import add_wait, leaving, say, story, wait

HELP = "end a job, or the run of a pipeline, before its time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the job, the pipeline or the state machine")
    add_wait(parser, default=False)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """One stop for each job of that name, and each pipeline's run, that is under way. Raises LaunchError for none."""
    jobs = [
        Call("sagemaker", kind.stop, {kind.name_key: options.name})
        for kind, answer in find(options.name, aws)
        if kind.stop and answer[kind.status_key] in kind.underway
    ]
    options.runs = [run for run in runs.newest(options.name, aws) if runs.look(run, aws).is_underway]
    calls = [*jobs, *(run.stop() for run in options.runs)]
    if not calls:
        raise LaunchError(
            f"no job {options.name} runs; an endpoint ends by `launch.py delete {options.name}`"
        )
    return calls


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    for call in calls:
        aws(call)
        say(f"{_title(call, options)} is asked to stop; a container has 120 s")
        if options.wait:
            with leaving(f"the stop of {options.name}", f"launch.py status {options.name} --wait"):
                wait(lambda call=call: _look(call, options, aws), options.poll_seconds)


def _title(call: Call, options: argparse.Namespace) -> str:
    kind = next((kind for kind in KINDS if kind.stop == call.method), None)
    if kind:
        return f"{kind.title} {options.name}"
    return f"the run of {next(run.title for run in options.runs if run.stop() == call)}"


def _look(call: Call, options: argparse.Namespace, aws: Aws) -> tuple[list[str], bool]:
    for kind in KINDS:
        if kind.stop == call.method:
            answer = aws(kind.described(options.name))
            return story(kind, answer), answer[kind.status_key] not in kind.underway
    seen = runs.look(next(run for run in options.runs if run.stop() == call), aws)
    return [*seen.steps, seen.status], not seen.is_underway
