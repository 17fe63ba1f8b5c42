"""`launch.py download`: what lies under an S3 prefix, as models and reports do, to a folder of this machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from launching.calls import Aws, Call, LaunchError
from launching.request import split_uri
from launching.transfer import IN_PARTS, PART_BYTES, is_same, transfer

HELP = "copy an S3 prefix, or one object, to a folder; what is there already is skipped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="s3://BUCKET/PREFIX")
    parser.add_argument("folder", type=Path)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """The look at what is there; each object's copy follows from it."""
    bucket, prefix = split_uri(options.source)
    return [Call("s3", "list_objects_v2", {"Bucket": bucket, "Prefix": prefix.removesuffix("/")})]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    [look] = calls
    prefix = look.arguments["Prefix"]
    found = {
        path: item
        for item in aws.pages(look, "Contents")
        if (path := _place(item["Key"], prefix, options.folder))
    }
    if not found:
        raise LaunchError(f"there is nothing under {options.source}")
    missing = {path: item for path, item in found.items() if not is_same(path, item["Size"], item["ETag"])}
    s3 = aws.client("s3")
    bucket = look.arguments["Bucket"]

    def download(entry: tuple[Path, dict[str, Any]]) -> int:
        path, item = entry
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        if item["Size"] < PART_BYTES:
            temporary.write_bytes(s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
        else:
            s3.download_file(bucket, item["Key"], str(temporary), Config=IN_PARTS)
        temporary.rename(path)
        return item["Size"]

    total_bytes = sum(item["Size"] for item in missing.values())
    transfer(download, list(missing.items()), total_bytes)
    print(
        f"{len(missing)} files ({total_bytes / 1e6:.1f} MB) copied to {options.folder},"
        f" {len(found) - len(missing)} were there already"
    )


def _place(key: str, prefix: str, folder: Path) -> Path | None:
    """Where an object goes; None for what only begins alike, and for the empty objects that stand for folders.

    Raises LaunchError for a key that would leave the folder.
    """
    if key == prefix:
        name = PurePosixPath(key).name
    elif not prefix or key.startswith(f"{prefix}/"):
        name = key.removeprefix(f"{prefix}/") if prefix else key
    else:
        return None
    if not name or name.endswith("/"):
        return None
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise LaunchError(f"the object {key!r} would be written outside {folder}")
    return folder / name
