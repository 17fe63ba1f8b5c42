"""`launch.py upload`: a folder of this machine to S3, as it stands, where a training job finds it."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launching.calls import ROOT, Aws, Call, LaunchError
from launching.request import split_uri
from launching.transfer import IN_PARTS, PART_BYTES, is_same, transfer

HELP = "copy a folder to S3; what is there already is skipped, so a cut copy goes on"
MAXIMUM_KEY_BYTES = 1024  # S3's own limit
CHECKED_PICTURES = 32


class LocalFile:
    """A file as a request's body: printed by its length, read when it is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size

    def __len__(self) -> int:
        return self.size_bytes

    def read(self) -> bytes:
        return self.path.read_bytes()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="its contents go below the prefix, folders kept")
    parser.add_argument("target", metavar="s3://BUCKET/PREFIX")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at the data first where there is a dataset.json, as training would (default)",
    )


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """One look at what is there, then one upload for each file."""
    bucket, prefix = split_uri(options.target)
    files = _files(options.folder)
    if not files:
        raise LaunchError(f"no files in {options.folder}")
    calls = [Call("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix})]
    for path in files:
        key = prefix + path.relative_to(options.folder).as_posix()
        if len(key.encode()) > MAXIMUM_KEY_BYTES:
            raise LaunchError(f"{path}: the name {key[:60]}... is longer than S3's {MAXIMUM_KEY_BYTES} bytes")
        body = LocalFile(path)
        if body.size_bytes < PART_BYTES:
            calls.append(Call("s3", "put_object", {"Bucket": bucket, "Key": key, "Body": body}))
        else:  # boto3's own, made of several operations
            calls.append(Call("s3", "upload_file", {"Filename": str(path), "Bucket": bucket, "Key": key}))
    if options.check:
        _check(options.folder)
    return calls


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    look, *uploads = calls
    there = {item["Key"]: item for item in aws.pages(look, "Contents")}
    missing = [call for call in uploads if not _is_there(call, there)]
    s3 = aws.client("s3")

    def upload(call: Call) -> int:
        if call.method == "upload_file":
            s3.upload_file(**call.arguments, Config=IN_PARTS)
        else:
            s3.put_object(**call.arguments | {"Body": call.arguments["Body"].read()})
        return _path(call).stat().st_size

    total_bytes = sum(_path(call).stat().st_size for call in missing)
    transfer(upload, missing, total_bytes)
    print(
        f"{len(missing)} files ({total_bytes / 1e6:.1f} MB) copied to {options.target},"
        f" {len(uploads) - len(missing)} were there already"
    )


def _path(call: Call) -> Path:
    arguments = call.arguments
    return arguments["Body"].path if "Body" in arguments else Path(arguments["Filename"])


def _is_there(call: Call, there: dict[str, dict[str, object]]) -> bool:
    item = there.get(call.arguments["Key"])
    return item is not None and is_same(_path(call), int(str(item["Size"])), str(item["ETag"]))


def _files(folder: Path) -> list[Path]:
    """The files below `folder`, without hidden ones (.DS_Store, .git). Raises LaunchError for what would be lost."""
    if not folder.is_dir():
        raise LaunchError(f"{folder} is not a folder")
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise LaunchError(
                    f"{Path(place) / name} is a link to a folder, which is not followed: copy it here"
                )
        files += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
    return files


def _check(folder: Path) -> None:
    """What training would refuse must not take an hour to go up first. Raises LaunchError."""
    channels = [
        path.parent
        for path in [folder / "dataset.json", *sorted(folder.glob("*/dataset.json"))]
        if path.is_file()
    ]
    if not channels:
        return
    program = ROOT / "scripts" / "check_dataset.py"
    with tempfile.TemporaryDirectory() as sheets:
        command = [
            sys.executable,
            program,
            *channels,
            "--sample",
            CHECKED_PICTURES,
            "--sheet",
            f"{sheets}/sheet.png",
        ]
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if result.returncode:
        told = [line.strip() for line in result.stdout.splitlines() if "REFUSED" in line]
        # Without a verdict of its own the program itself has failed.
        raise LaunchError(
            "\n".join(told or result.stderr.strip().splitlines()[-1:])
            + "\n(--no-check copies it all the same)"
        )
