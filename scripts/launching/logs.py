"""`launch.py logs`: what the containers of a job or an endpoint print."""

import argparse
import time
from collections.abc import Sequence

from launching.calls import Aws, Call, LaunchError
from launching.kinds import ENDPOINT, KINDS, Kind, find, nothing_of
from launching.log_tail import LogTail

HELP = "the log of a job or an endpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of a job or an endpoint")
    parser.add_argument("--follow", action="store_true", help="go on until the job ends, or Ctrl-C")
    parser.add_argument("--minutes", type=float, metavar="N", help="only the last N minutes; default: all")
    parser.add_argument("--poll-seconds", type=float, default=5)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Looks only: which kinds of thing have that name, and the log of each that is there."""
    looks = [kind.described(options.name) for kind in KINDS]
    logged = [kind.log_place(options.name) for kind in KINDS if kind.log_group]
    since = _since(options)
    return [*looks, *(LogTail(aws, *place, since).look() for place in logged)]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    found = find(options.name, aws)
    if not found:
        raise nothing_of(options.name, aws)
    for kind, answer in found:
        if kind.log_group:
            _print_log(kind, answer[kind.status_key], options, aws)


def _since(options: argparse.Namespace) -> int:
    return int(1000 * (time.time() - 60 * options.minutes)) if options.minutes else 0


def _print_log(kind: Kind, status: str, options: argparse.Namespace, aws: Aws) -> None:
    tail = LogTail(aws, *kind.log_place(options.name), _since(options))
    lines = tail.new_lines()
    if not lines and not options.follow:
        raise LaunchError(f"{kind.title} {options.name} has no log yet in {tail.group}")
    while True:
        for line in lines:
            print(line, flush=True)
        if not options.follow or status not in kind.underway | {ENDPOINT.good}:
            return
        time.sleep(options.poll_seconds)
        status = aws(kind.described(options.name))[kind.status_key]
        lines = tail.new_lines()
