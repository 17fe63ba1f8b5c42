"""`launch.py status`: what runs, or how it goes with one; with --wait, the way back to what one has left."""

import argparse
from collections.abc import Sequence

from launching.calls import Aws, Call
from launching.kinds import ENDPOINT, KINDS, find
from launching.watch import add_wait, follow, post_mortem, story

HELP = "how a job or an endpoint is doing; without a name, what runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="of a job or an endpoint")
    add_wait(parser, default=False)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Looks only."""
    if options.name:
        return [kind.described(options.name) for kind in KINDS]
    return [
        Call("sagemaker", kind.list, {} if kind is ENDPOINT else {"StatusEquals": "InProgress"})
        for kind in KINDS
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    if not options.name:
        _print_all(calls, aws)
        return
    for kind, answer in find(options.name, aws):
        if options.wait and answer[kind.status_key] in kind.underway:
            answer = follow(kind, options.name, options, aws)
        print(f"{kind.title} {options.name} is {answer[kind.status_key]}")
        if answer[kind.status_key] in ("Failed", "OutOfService", "UpdateRollbackFailed"):
            print(post_mortem(kind, options.name, answer, aws))
            continue
        for line in story(kind, answer):
            print(f"  {line}")
        for metric in answer.get("FinalMetricDataList", []):
            print(f"  {metric['MetricName']} {metric['Value']:g}")


def _print_all(calls: Sequence[Call], aws: Aws) -> None:
    found = 0
    for kind, call in zip(KINDS, calls, strict=True):
        for item in aws.pages(call, kind.summaries):
            print(f"{kind.title:14} {item[kind.name_key]:40} {item[kind.status_key]}")
            found += 1
    if not found:
        print("nothing runs")
