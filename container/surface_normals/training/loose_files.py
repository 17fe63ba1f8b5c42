"""A channel of loose files: images/ and beside it normals/ or depth/, cameras/ and masks/, each listed once."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path


class LooseFiles:
    """The files of a channel by kind, which is the folder that they are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, kind: str, endings: Collection[str]) -> dict[str, Path]:
        """Files of a kind with one of `endings`, in either case, by their path without it."""
        files: dict[str, Path] = {}
        for path in sorted(walk(self.folder / kind)):
            if path.suffix.lower() in endings:
                name = path.relative_to(self.folder / kind).with_suffix("").as_posix()
                if name in files:
                    raise ValueError(f"{files[name]} and {path} have the same name; keep one")
                files[name] = path
        return files

    def expected(self, name: str, kind: str, ending: str) -> str:
        """Where a picture's file of a kind should be."""
        return f"{self.folder / kind / name}{ending}"


def walk(folder: Path) -> Iterator[Path]:
    """All files below `folder`, but for what S3 prefixes also hold: empty "folder" objects and hidden files."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path))
            elif entry.is_file() and entry.stat().st_size:
                yield Path(entry.path)
