"""`launch.py invoke`: one picture through an endpoint, the answer to a file."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from botocore.exceptions import ClientError

from launching.calls import Aws, Call, LaunchError

HELP = "send one picture to an endpoint"
MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".npy": "application/x-npy",
    ".json": "application/json",
}
MAXIMUM_BODY_BYTES = 25 * 2**20  # of a real-time endpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("picture", type=Path)
    add("--endpoint", required=True, metavar="NAME")
    add("--content-type", metavar="TYPE", help="of the picture; default: by its suffix")
    add("--accept", metavar="TYPE", help="of the answer; default: by the suffix of --output")
    add("--output", type=Path, metavar="FILE", help="default: PICTURE-normals.png, here")


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    options.output = options.output or Path(f"{options.picture.stem}-normals.png")
    try:
        body = options.picture.read_bytes()
    except OSError as error:
        raise LaunchError(f"{options.picture}: {error.strerror}") from None
    if len(body) > MAXIMUM_BODY_BYTES:
        raise LaunchError(f"{options.picture} has {len(body) / 2**20:.1f} MB, an endpoint takes 25 MB")
    arguments = {
        "EndpointName": options.endpoint,
        "ContentType": options.content_type or _media_type(options.picture, "--content-type"),
        "Accept": options.accept or _media_type(options.output, "--accept"),
        "Body": body,
    }
    return [Call("sagemaker-runtime", "invoke_endpoint", arguments)]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    try:
        answer = aws(calls[0])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ModelError":
            raise
        status, message = (error.response.get(key) for key in ("OriginalStatusCode", "OriginalMessage"))
        raise LaunchError(f"the model answered {status}: {_words(message or '')}") from None
    body = answer["Body"].read()
    temporary = options.output.with_name(f".{options.output.name}.tmp")
    try:
        temporary.write_bytes(body)
        temporary.rename(options.output)
    except OSError as error:
        raise LaunchError(f"{options.output}: {error.strerror}") from None
    print(f"{options.output}: {answer['ContentType']}, {len(body)} bytes")


def _media_type(path: Path, option: str) -> str:
    try:
        return MEDIA_TYPES[path.suffix.lower()]
    except KeyError:
        raise LaunchError(
            f"{path}: no media type is known for {path.suffix!r}; name it with {option}"
        ) from None


def _words(message: str) -> str:
    """The text of our server's JSON errors, or whatever another server said."""
    try:
        return str(json.loads(message)["message"])
    except (ValueError, KeyError, TypeError):
        return message
