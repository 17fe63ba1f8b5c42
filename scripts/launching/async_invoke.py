"""`invoke --async`: the picture up to S3, the request, and the answer down from S3 when it is there."""

import re
import time
from pathlib import Path

from launching.calls import Aws, Call, LaunchError

POLL_SECONDS = 1.0
DEADLINE_SECONDS = 3700
"""A request may run for an hour; one that waits longer in the queue is fetched with `download`."""


def send_and_fetch(path: Path, call: Call, aws: Aws) -> tuple[str, bytes]:
    """The answer's media type and bytes. Raises LaunchError with the model's words."""
    bucket, key = _place(call.arguments["InputLocation"])
    aws.client("s3").upload_file(str(path), bucket, key)
    answer = aws(call)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := _fetch(answer["OutputLocation"], aws):
            return found
        if failed := _fetch(answer.get("FailureLocation"), aws):
            raise LaunchError(f"the model answered: {failed[1].decode(errors='replace')[:2000]}")
        time.sleep(POLL_SECONDS)
    raise LaunchError(f"no answer yet; it will be {answer['OutputLocation']}")


def _fetch(uri: str | None, aws: Aws) -> tuple[str, bytes] | None:
    if uri is None:
        return None
    bucket, key = _place(uri)
    answer = aws.found(Call("s3", "get_object", {"Bucket": bucket, "Key": key}))
    return None if answer is None else (answer["ContentType"], answer["Body"].read())


def _place(uri: str) -> tuple[str, str]:
    match = re.fullmatch(r"s3://([^/]+)/(.+)", uri)
    if not match:
        raise LaunchError(f"{uri!r} is not of the form s3://BUCKET/KEY")
    return match[1], match[2]
