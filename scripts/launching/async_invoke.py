"""`invoke --async`: the picture up to S3, the request, and the answer down from S3 when it is there."""

import re
import time
from pathlib import Path

from launching.calls import Aws, Call, LaunchError

POLL_SECONDS = 1.0
ASYNC_SECONDS = 3600
"""As long as AWS lets a request run; unless told so it is 15 minutes."""
DEADLINE_SECONDS = ASYNC_SECONDS + 100
"""What waits longer in the queue is fetched with `download`."""


def upload_of(path: Path, call: Call) -> Call:
    """Of the picture, to where the request says that it is."""
    bucket, key = _place(call.arguments["InputLocation"])
    return Call("s3", "upload_file", {"Filename": str(path), "Bucket": bucket, "Key": key})


def send_and_fetch(upload: Call, call: Call, aws: Aws) -> tuple[str, bytes]:
    """The answer's media type and bytes. Raises LaunchError with the model's words."""
    aws(upload)
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
