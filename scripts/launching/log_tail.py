"""What a container at SageMaker prints, read from CloudWatch a portion at a time."""

from collections import deque
from typing import Any

from launching.calls import Aws, Call

LAST_LINES = 50
OVERLAP_MILLISECONDS = 60_000
"""Hosts' clocks and CloudWatch's intake differ: look so far back again for what came late."""


class LogTail:
    """The log of all hosts of a job or of all instances of an endpoint, in the order of time."""

    def __init__(self, aws: Aws, group: str, prefix: str, since_milliseconds: int = 0) -> None:
        self._aws = aws
        self._place = {"logGroupName": group} | ({"logStreamNamePrefix": prefix} if prefix else {})
        self._prefix = prefix
        self._since = since_milliseconds
        self._seen: dict[str, int] = {}
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def group(self) -> str:
        return self._place["logGroupName"]

    def look(self, token: str | None = None) -> Call:
        """The call that reads on from where it is."""
        arguments: dict[str, Any] = {**self._place, "startTime": self._since, "interleaved": True}
        return Call("logs", "filter_log_events", arguments | ({"nextToken": token} if token else {}))

    def new_lines(self) -> list[str]:
        """What came since the last time; nothing where there is no log yet."""
        lines = []
        look = self.look()
        while True:
            answer = self._aws.found(look)
            if answer is None:
                return []
            for event in answer["events"]:
                if event["eventId"] not in self._seen:
                    self._seen[event["eventId"]] = event["timestamp"]
                    if line := self._shown(event):
                        lines.append(line)
            if not answer.get("nextToken"):
                break
            look = self.look(answer["nextToken"])
        if self._seen:
            self._since = max(self._since, max(self._seen.values()) - OVERLAP_MILLISECONDS)
            self._seen = {key: when for key, when in self._seen.items() if when >= self._since}
        self.last.extend(lines)
        return lines

    def _shown(self, event: dict[str, Any]) -> str | None:
        message = event["message"].rstrip()
        if message.startswith('{"_aws"'):  # metrics for CloudWatch, not for eyes
            return None
        host = event["logStreamName"].removeprefix(self._prefix)
        host = host.rpartition("-")[0] if self._prefix else host.rpartition("/")[2]
        return f"{host or event['logStreamName']} | {message}"
