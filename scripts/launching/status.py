"""`launch.py status`: what runs, or how it goes with one; with --wait, the way back to what one has left."""

import argparse
from collections.abc import Sequence

from launching import runs
from launching.calls import Aws, Call
from launching.capacity import selected
from launching.kinds import COMPONENT, ENDPOINT, KINDS, find, nothing_of
from launching.watch import add_wait, follow, post_mortem, story

LASTING = (ENDPOINT, COMPONENT)
"""Those that are there until they are deleted; jobs are listed while they run."""
HELP = "how a job, an endpoint or a pipeline is doing; without a name, what runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of a job, an endpoint, a pipeline or a state machine")
    add_wait(parser, default=False)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Looks only."""
    if options.name:
        return [*(kind.described(options.name) for kind in KINDS), *runs.looks_for(options.name)]
    lists = [
        Call("sagemaker", kind.list, {} if kind in LASTING else {"StatusEquals": "InProgress"})
        for kind in (*KINDS, COMPONENT)
    ]
    return [*lists, *runs.looks_for_all()]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    if not options.name:
        _print_all(calls, aws)
        return
    found, ran = find(options.name, aws), runs.newest(options.name, aws)
    if not found and not ran:
        raise nothing_of(options.name, aws, "run of a pipeline", "run of a state machine")
    for kind, answer in found:
        if options.wait and answer[kind.status_key] in kind.underway:
            answer = follow(kind, options.name, options, aws)
        instances = selected(answer)
        print(
            f"{kind.title} {options.name} is {answer[kind.status_key]}"
            + (f" on {instances}" if instances else "")
        )
        if answer[kind.status_key] in ("Failed", "OutOfService", "UpdateRollbackFailed"):
            print(post_mortem(kind, options.name, answer, aws))
            continue
        for line in story(kind, answer):
            print(f"  {line}")
        for metric in answer.get("FinalMetricDataList", []):
            print(f"  {metric['MetricName']} {metric['Value']:g}")
    for run in ran:
        _print_run(run, options, aws)


def _print_run(run: runs.Run, options: argparse.Namespace, aws: Aws) -> None:
    seen = runs.look(run, aws)
    if options.wait and seen.is_underway:
        runs.follow_run(run, options, aws)
        return
    reason = f": {seen.reason}" if seen.reason else ""
    waits = f", waits for the approval of {seen.waiting_for}" if seen.waiting_for and seen.is_underway else ""
    print(f"the newest run of {run.title} is {seen.status}{reason}{waits}")
    for step in seen.steps:
        print(f"  {step}")


def _print_all(calls: Sequence[Call], aws: Aws) -> None:
    rows = [
        (kind.title, item[kind.name_key], item[kind.status_key])
        for kind, call in zip((*KINDS, COMPONENT), calls, strict=False)  # after them the looks at runs
        for item in aws.pages(call, kind.summaries)
    ]
    rows += [(run.kind, run.name, status) for run, status in runs.underway(aws)]
    for title, name, status in rows:
        print(f"{title:19} {name:40} {status}")
    if not rows:
        print("nothing runs")
