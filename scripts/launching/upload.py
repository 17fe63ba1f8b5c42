"""`launch.py upload`: a folder of this machine to S3, as it stands, where a training job finds it."""

import argparse
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from launching.calls import Aws, Call, LaunchError

HELP = "copy a folder to S3; what is there with the same size is skipped"
MAXIMUM_KEY_BYTES = 1024  # S3's own limit
PARALLEL_FILES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="its contents go below the prefix, folders kept")
    parser.add_argument("target", metavar="s3://BUCKET/PREFIX")


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """One look at what is there, then one upload for each file."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", options.target)
    if not match:
        raise LaunchError(f"{options.target!r} is not of the form s3://BUCKET/PREFIX")
    bucket, prefix = match[1], (match[2] or "").strip("/")
    prefix = f"{prefix}/" if prefix else ""
    files = _files(options.folder)
    if not files:
        raise LaunchError(f"no files in {options.folder}")
    calls = [Call("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix})]
    for path in files:
        key = prefix + path.relative_to(options.folder).as_posix()
        if len(key.encode()) > MAXIMUM_KEY_BYTES:
            raise LaunchError(f"{path}: the name {key[:60]}... is longer than S3's {MAXIMUM_KEY_BYTES} bytes")
        calls.append(Call("s3", "upload_file", {"Filename": str(path), "Bucket": bucket, "Key": key}))
    return calls


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    look, *uploads = calls
    pages = aws.client("s3").get_paginator(look.method).paginate(**look.arguments)
    there = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
    sizes = {call.arguments["Key"]: Path(call.arguments["Filename"]).stat().st_size for call in uploads}
    missing = [call for call in uploads if there.get(call.arguments["Key"]) != sizes[call.arguments["Key"]]]
    total_bytes = sum(sizes[call.arguments["Key"]] for call in missing)

    def upload(call: Call) -> int:
        aws(call)
        return sizes[call.arguments["Key"]]

    with (
        ThreadPoolExecutor(PARALLEL_FILES) as pool,
        tqdm(total=total_bytes, unit="B", unit_scale=True) as bar,
    ):
        try:
            for sent_bytes in pool.map(upload, missing):
                bar.update(sent_bytes)
        except BaseException:  # the first refusal, or Ctrl-C, must not wait for thousands of files
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print(
        f"{len(missing)} files ({total_bytes / 1e6:.1f} MB) copied to {options.target},"
        f" {len(uploads) - len(missing)} were there already"
    )


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
