"""After the call that starts something: its state, its log and its progress, until its end.

boto3's own waiters give up after 6 h (training) or 1 h (endpoints, transform), though the job goes on.
"""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection
from tqdm import tqdm

from launching.calls import Aws, LaunchError
from launching.cures import cure
from launching.errors import has_expired, said
from launching.kinds import Kind
from launching.log_tail import LogTail

HEARTBEAT_SECONDS = 120
LAST_MINUTES = 15
PASSING = ("Throttling", "TooManyRequests", "ServiceUnavailable", "InternalFailure", "InternalError")
NEVER_STARTED = (
    "its log, CloudWatch group {group}, is empty: the container never started. Check: may the role pull the image "
    "from ECR; is the image of this region, linux/amd64, and a Docker v2 manifest (`make push` makes one); "
    "has the host a driver for it (--inference-ami)"
)


def add_wait(parser: argparse.ArgumentParser, *, default: bool = True) -> None:
    """The options of every verb that can wait."""
    meant = " (default)" if default else ""
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=default,
        help=f"stay until the end{meant}; Ctrl-C stops only the watching",
    )
    add_watch(parser)


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Those of a verb that always waits."""
    add = parser.add_argument
    add("--show-log", action=argparse.BooleanOptionalAction, default=True, help="with its log (default)")
    add("--poll-seconds", type=float, default=15, help="how often to look (%(default)s)")


def say(text: str) -> None:
    """One line of live status, with the time in UTC; above the bar where there is one."""
    tqdm.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}", file=sys.stdout)
    sys.stdout.flush()


def follow(
    kind: Kind, name: str, options: argparse.Namespace, aws: Aws, come_back: str | None = None
) -> dict[str, Any]:
    """Watch one thing to its end; its last description. Raises LaunchError, with the cause, for a bad end.

    Whatever cuts the watching, the thing goes on: the error says so, with the command `come_back`, by default
    `status`.
    """
    answer: dict[str, Any] = {}
    group, prefix = kind.log_place(name)
    # An endpoint's group is older than this watching; a job's streams are its own.
    since = 0 if prefix else int(1000 * (time.time() - HEARTBEAT_SECONDS))
    log = LogTail(aws, group, prefix, since) if group and options.show_log else None

    def look() -> tuple[list[str], bool]:
        answer.clear()
        answer.update(aws(kind.described(name)))
        return story(kind, answer), answer[kind.status_key] not in kind.underway

    end = f"launch.py stop {name}" if kind.stop else None
    with (
        Progress() as progress,
        leaving(f"{kind.title} {name}", come_back or f"launch.py status {name} --wait", end),
    ):
        wait(look, options.poll_seconds, lambda: progress.show(log.new_lines()) if log else None)
    if answer[kind.status_key] != kind.good:
        raise LaunchError(post_mortem(kind, name, answer, aws, log))
    return answer


@contextlib.contextmanager
def leaving(what: str, come_back: str, end: str | None = None) -> Iterator[None]:
    """Around the watching of something that goes on without it: the error then has the way back."""
    try:
        yield
    except KeyboardInterrupt:
        ending = f"; to end it: {end}" if end else ""
        raise LaunchError(f"no longer watching; {what} goes on. To come back: {come_back}{ending}") from None
    except (ClientError, BotoCoreError) as error:
        if has_expired(error):
            raise LaunchError(
                f"your AWS credentials have expired; {what} goes on. "
                f"Log in again (`aws sso login`), then come back: {come_back}"
            ) from None
        raise LaunchError(f"{said(error)}\n{what} goes on. To come back: {come_back}") from None


def story(kind: Kind, answer: dict[str, Any]) -> list[str]:
    """What happened so far, one line for each step."""
    steps = answer.get("SecondaryStatusTransitions")
    if steps:
        return [": ".join(filter(None, (step["Status"], step.get("StatusMessage")))) for step in steps]
    told = str(answer[kind.status_key])
    if counters := answer.get("TrainingJobStatusCounters"):
        told += ": " + ", ".join(f"{count} {word}" for word, count in counters.items() if count)
    return [told]


def post_mortem(kind: Kind, name: str, answer: dict[str, Any], aws: Aws, log: LogTail | None = None) -> str:
    """Why it failed, the end of its log, and what would likely cure it."""
    reason = answer.get("FailureReason") or answer.get("ExitMessage") or "no reason given"
    lines = [f"{kind.title} {name} is {answer[kind.status_key]}: {reason}"]
    last: list[str] = []
    if kind.log_group:
        log = log or LogTail(aws, *kind.log_place(name), _shortly_before(answer))
        try:
            if not log.new_lines() and not log.last:
                log = LogTail(aws, *kind.log_place(name))  # it had been silent for long
                log.new_lines()
        except (ClientError, BotoCoreError) as error:
            lines.append(f"its log cannot be read: {said(error)}")
        else:
            last = list(log.last)
            if last:
                lines += [f"the last {len(last)} lines of its log, CloudWatch group {log.group}:"]
                lines += [f"  {line}" for line in last]
            else:
                lines.append(NEVER_STARTED.format(group=log.group))
    steps = [step["Status"] for step in answer.get("SecondaryStatusTransitions", [])]
    if words := cure(" ".join([reason, *steps[-2:]]), last):
        lines.append(f"likely cure: {words}")
    if link := kind.console(name, aws.region):
        lines.append(f"in the console: {link}")
    return "\n".join(lines)


def _shortly_before(answer: dict[str, Any]) -> int:
    """Where to read a log from for its end: days of it are many pages."""
    changed = answer.get("LastModifiedTime")
    return int(1000 * (changed.timestamp() - LAST_MINUTES * 60)) if changed else 0


def wait(
    look: Callable[[], tuple[list[str], bool]],
    poll_seconds: float,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Call `look` until it says that the end is reached; print what is new, and now and then that nothing is.

    `look` returns the story so far, one line each, and whether it is over. `between` runs after each look. A cut
    line, a busy or a broken service only make it wait longer.
    """
    told: list[str] = []
    since = spoke = time.monotonic()
    while True:
        try:
            story_now, is_over = look()
        except (NoConnection, HTTPClientError, ClientError) as error:
            if isinstance(error, ClientError) and not _passes(error):
                raise
            say(f"AWS does not answer, trying again: {error}")
            story_now, is_over = told, False
        now = time.monotonic()
        for index, line in enumerate(story_now):
            if told[index : index + 1] != [line]:
                say(line)
                since = spoke = now
        told = story_now
        try:
            between()
        except (NoConnection, HTTPClientError) as error:
            say(f"no log this time: {error}")
        except ClientError as error:
            if has_expired(error) and not is_over:
                raise
            if not _passes(error):
                say(f"its log cannot be read: {error.response['Error']['Code']}")
                between = _nothing
        if is_over:
            return
        if now - spoke > HEARTBEAT_SECONDS:
            say(f"{told[-1] if told else 'nothing heard yet'} ({(now - since) / 60:.0f} min)")
            spoke = now
        time.sleep(poll_seconds)


def _nothing() -> None:
    pass


def _passes(error: ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or error.response["Error"]["Code"].startswith(PASSING)


class Progress:
    """Log lines as they come; on a terminal below them a bar of the steps that training says it has done."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, lines: list[str]) -> None:
        for line in lines:
            say(line)
            if steps := re.search(r"\bstep (\d+) of (\d+)\b", line):
                self._advance(int(steps[1]), int(steps[2]))

    def _advance(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, unit=" steps", disable=None)
        self._bar.update(done - self._bar.n)
