"""First step of a training job: the input channels, one folder each under input/data.

SageMaker names them in inputdataconfig.json; without it (plain `docker run`) every sub-folder is one.
"""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

COUNT_LIMIT = 10_000
"""Counting stops here: a FastFile channel lists its prefix over the network."""

NOT_DATA = ("code", "sm_drivers")
"""Channels that SageMaker's own SDK adds for its scripts."""


def discover(declared: Mapping[str, Any], data_dir: Path) -> dict[str, Path]:
    """Channel names to folders, unchecked. Raises ValueError for a channel in Pipe mode."""
    if not declared:
        return _folders(data_dir)
    for name, settings in declared.items():
        if isinstance(settings, Mapping) and settings.get("TrainingInputMode") == "Pipe":
            raise ValueError(
                f"channel {name!r} is in Pipe mode, which this image does not read: "
                "set its InputMode to File or FastFile"
            )
    return {name: data_dir / name for name in declared if name not in NOT_DATA}


def is_sharded(declared: Mapping[str, Any], name: str) -> bool:
    """Whether S3 gives each host other objects of the channel, and none where there are fewer than hosts."""
    settings = declared.get(name)
    return isinstance(settings, Mapping) and settings.get("S3DistributionType") == "ShardedByS3Key"


def check(name: str, folder: Path, *, may_be_empty: bool = False) -> int:
    """How many files the channel holds, counted up to COUNT_LIMIT.

    Raises ValueError when there is none with content: what was looked at, what was found, why it may be.
    """
    try:
        count = sum(1 for _ in islice(_files(folder), COUNT_LIMIT))
        if any(entry.stat().st_size for entry in _files(folder)):  # the first file nearly always settles it
            return count
        found = f"only empty files ({count})" if count else "no file"
        if may_be_empty:
            return 0
    except FileNotFoundError:
        if may_be_empty:
            return 0
        found = "that there is no such folder"
    except NotADirectoryError:
        found = "a file in place of the folder"
    except OSError as error:
        found = f"that {error.filename} cannot be read ({error.strerror})"
    raise ValueError(
        f"channel {name!r} is empty: looked in {folder}, found {found}. Likely causes: a wrong channel name, an S3 "
        "prefix with nothing below it, a role that may not read it (without SageMaker: a wrong folder mounted)"
    )


def _folders(data_dir: Path) -> dict[str, Path]:
    if not data_dir.is_dir():
        return {}
    return {
        path.name: path
        for path in sorted(data_dir.iterdir())
        if path.is_dir()
        and path.name not in NOT_DATA
        and not path.name.startswith(".")
        # SageMaker leaves `<channel>-manifest` beside a channel
        and not path.name.endswith("-manifest")
    }


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every regular file below, but the hidden ones that desktops and tools leave behind."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(Path(entry.path))
            elif entry.is_file():
                yield entry
