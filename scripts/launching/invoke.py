"""`launch.py invoke`: pictures through an endpoint, the answers to files, and how long they took."""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from launching.async_invoke import ASYNC_SECONDS, send_and_fetch, upload_of
from launching.calls import MAX_CONNECTIONS, ROOT, Aws, Call, LaunchError
from launching.errors import said
from launching.request import split_uri
from launching.upload import LocalFile

HELP = "send pictures, or folders of them, to an endpoint"
MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".npy": "application/x-npy",
    ".json": "application/json",
}
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
MAXIMUM_BODY_BYTES = 25 * 2**20  # of a real-time endpoint
MAXIMUM_ASYNC_BYTES = 2**30
NORMALS = "application/x-npy;dtype=float16"
BUSY = (429, 503)
MAX_TRIES = 6
"""boto3 tries again when SageMaker is busy, not when the container says that it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="PICTURE", help="or a folder, with all pictures below it")
    add("--endpoint", required=True, metavar="NAME")
    add("--content-type", metavar="TYPE", help="of the pictures; default: by their suffix")
    add("--accept", metavar="TYPE", help="of the answer; default: by the suffix of --output")
    add("--output", type=Path, metavar="FILE", help="of one picture; default: PICTURE-normals.png, here")
    add("--output-dir", type=Path, metavar="FOLDER", help="of several; default: here, as NAME-normals.png")
    add("--normals", action="store_true", help="write NAME-normals.npy (float16) beside each picture of them")
    add("--concurrency", type=int, default=8, metavar="N", help="pictures under way at once (%(default)s)")
    add("--variant", metavar="NAME", help="ask this variant of several")
    add("--target-model", metavar="KEY", help="of a multi-model endpoint: the model.tar.gz below its folder")
    add("--component", metavar="NAME", help="ask this inference component")
    add(
        "--async",
        dest="asynchronous",
        metavar="S3_URI",
        help="an asynchronous endpoint: pictures go up there",
    )


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """One call for each picture; with --async before them their uploads."""
    if not 1 <= options.concurrency <= MAX_CONNECTIONS:
        raise LaunchError(f"--concurrency {options.concurrency}: from 1 to {MAX_CONNECTIONS}")
    found = [(path, folder) for given in options.pictures for path, folder in _pictures(given)]
    options.places = [_output(path, folder, options) for path, folder in found]
    if len(found) > 1 and options.output:
        raise LaunchError("--output is for one picture: several go to --output-dir")
    doubled = next((place for place in options.places if options.places.count(place) > 1), None)
    if doubled and len(set(options.places)) < len(found):
        raise LaunchError(f"two pictures would be answered into {doubled}: give folders one at a time")
    calls = [_call(path, place, options) for (path, _), place in zip(found, options.places, strict=True)]
    if not options.asynchronous:
        return calls
    return [*(upload_of(path, call) for (path, _), call in zip(found, calls, strict=True)), *calls]


def _pictures(given: Path) -> list[tuple[Path, Path]]:
    """The pictures, each with the folder that its output keeps the names below of."""
    if not given.is_dir():
        return [(given, given.parent)]
    found = [
        (path, given)
        for path in sorted(given.rglob("*"))
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    ]
    if not found:
        raise LaunchError(f"no pictures below {given}")
    return found


def _output(path: Path, folder: Path, options: argparse.Namespace) -> Path:
    if options.output:
        return options.output
    base = options.output_dir or Path()
    return base / path.relative_to(folder).parent / f"{path.stem}-normals.png"


def _call(path: Path, place: Path, options: argparse.Namespace) -> Call:
    limit = MAXIMUM_ASYNC_BYTES if options.asynchronous else MAXIMUM_BODY_BYTES
    try:
        body = LocalFile(path)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    if len(body) > limit:
        raise LaunchError(f"{path} has {len(body) / 2**20:.1f} MB, an endpoint takes {limit // 2**20} MB")
    arguments = {
        "EndpointName": options.endpoint,
        "ContentType": options.content_type or _media_type(path, "--content-type"),
        "Accept": options.accept or (NORMALS if options.normals else _media_type(place, "--accept")),
    }
    if options.asynchronous:
        split_uri(options.asynchronous)
        target = f"{options.asynchronous.rstrip('/')}/{place.as_posix().lstrip('./')}{path.suffix}"
        arguments |= {"InputLocation": target, "InvocationTimeoutSeconds": ASYNC_SECONDS}
        return Call("sagemaker-runtime", "invoke_endpoint_async", arguments)
    if options.variant:
        arguments["TargetVariant"] = options.variant
    if options.target_model:
        arguments["TargetModel"] = options.target_model
    if options.component:
        arguments["InferenceComponentName"] = options.component
    return Call("sagemaker-runtime", "invoke_endpoint", arguments | {"Body": body})


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Send all, write what comes; failures are told at the end, and then end it with status 1."""
    paths = [path for given in options.pictures for path, _ in _pictures(given)]
    uploads = [call for call in calls if call.client == "s3"] or [None] * len(paths)
    asked = [call for call in calls if call.client != "s3"]
    work = list(zip(paths, uploads, asked, options.places, strict=True))
    failures: list[str] = []
    seconds: list[float] = []

    def one(item: tuple[Path, Call | None, Call, Path]) -> None:
        path, upload, call, place = item
        started = time.monotonic()
        try:
            media_type, body = send_and_fetch(upload, call, aws) if upload else _send(call, aws)
            took = time.monotonic() - started
            written = _files(place, media_type, body, options)
            for name, content in written:
                _write(name, content)
        except (LaunchError, ClientError, BotoCoreError, Boto3Error) as error:
            failures.append(f"{path}: {said(error)}" if len(work) > 1 else said(error))
            return
        seconds.append(took)
        if len(work) == 1:
            for name, content in written:
                print(f"{name}: {media_type}, {len(content)} bytes")

    started = time.monotonic()
    with ThreadPoolExecutor(options.concurrency) as pool:
        try:
            for _ in tqdm(pool.map(one, work), total=len(work), unit=" pictures", disable=_bar(len(work))):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if len(work) > 1:
        print(summary(seconds, time.monotonic() - started))
    if failures:
        more = f"\nand {len(failures) - 10} more" if len(failures) > 10 else ""
        raise LaunchError("\n".join(failures[:10]) + more)


def _bar(count: int) -> bool | None:
    return True if count == 1 else None


def _send(call: Call, aws: Aws) -> tuple[str, bytes]:
    arguments = call.arguments | {"Body": call.arguments["Body"].read()}
    for attempt in range(MAX_TRIES):
        try:
            answer = aws(Call(call.client, call.method, arguments))
            return answer["ContentType"], answer["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] != "ModelError":
                raise
            status, message = (error.response.get(key) for key in ("OriginalStatusCode", "OriginalMessage"))
            if status not in BUSY or attempt + 1 == MAX_TRIES:
                raise LaunchError(f"the model answered {status}: {words(message or '')}") from None
        time.sleep(0.25 * 2**attempt)
    raise AssertionError("the last try returns or raises")


def _files(
    place: Path, media_type: str, body: bytes, options: argparse.Namespace
) -> list[tuple[Path, bytes]]:
    """What to write for one answer: with --normals the array, and the usual lilac picture made from it."""
    if not options.normals:
        return [(place, body)]
    if media_type.partition(";")[0] != "application/x-npy":
        raise LaunchError(f"{place}: --normals needs an .npy answer, not {media_type}")
    return [(place.with_suffix(".npy"), body), (place, _picture(body))]


def _picture(body: bytes) -> bytes:
    import numpy as np
    from PIL import Image

    container = str(ROOT / "container")
    if container not in sys.path:
        sys.path.insert(0, container)
    from surface_normals.codecs import lilac

    file = io.BytesIO()
    Image.fromarray(lilac(np.load(io.BytesIO(body)).astype(np.float32)[:, :, :3])).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.rename(path)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None


def summary(seconds: list[float], all_seconds: float) -> str:
    """How many, how fast, and the latency that so many per cent of the requests stay below."""
    if not seconds:
        return "no answer"
    ordered = sorted(seconds)

    def at(percent: int) -> float:
        return ordered[math.ceil(len(ordered) * percent / 100) - 1]

    shown = ", ".join(f"p{percent} {1000 * at(percent):.0f}" for percent in (50, 90, 99))
    return (
        f"{len(seconds)} pictures in {all_seconds:.1f} s ({len(seconds) / all_seconds:.1f} a second); "
        f"latency in ms: {shown}, largest {1000 * ordered[-1]:.0f}"
    )


def _media_type(path: Path, option: str) -> str:
    try:
        return MEDIA_TYPES[path.suffix.lower()]
    except KeyError:
        raise LaunchError(
            f"{path}: no media type is known for {path.suffix!r}; name it with {option}"
        ) from None


def words(message: str) -> str:
    """The text of our server's JSON errors, or whatever another server said."""
    try:
        return str(json.loads(message)["message"])
    except (ValueError, KeyError, TypeError):
        return message
