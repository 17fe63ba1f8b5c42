"""A channel of tar shards, named as the webdataset library names things, each file of which can be read alone.

train-000000.tar
    __meta__/index.json        {name: [offset after the index, bytes]}: opening a shard takes one read at its start
    __meta__/dataset.json      how truth is stored; a dataset.json beside the shards goes before
    room/0001.jpg              a picture; its key is what comes before the first dot of the file's name
    room/0001.normals.png      its truth by the key, and likewise .depth., .mask.png and .camera.json

webdataset reads shards as streams, in an order that hangs on how many readers there are. Training draws samples
by their number, so that a stopped job goes on exactly: hence the index, which `scripts/pack_dataset.py` writes.
Shards without one are gone through header by header.
"""

import json
import logging
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

META = "__meta__/"  # webdataset takes it for no sample
INDEX, DESCRIPTION = f"{META}index.json", f"{META}dataset.json"
WORDS = {"images": "", "normals": ".normals", "depth": ".depth", "masks": ".mask", "cameras": ".camera"}
"""Folders of loose files, and what stands between key and ending in a shard."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a shard; what there is of pathlib's Path is the same."""

    shard: Path
    name: str
    offset: int
    """of its first byte in the shard"""
    size: int
    """in bytes"""

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def read_bytes(self) -> bytes:
        """Raises ValueError when the shard has become too short. Opened each time: processes share no position."""
        with self.shard.open("rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(self.size)
            while len(data) < self.size and (more := file.read(self.size - len(data))):
                data += more
        if len(data) < self.size:
            raise ValueError("the shard ends before it does")
        return data

    def read_text(self) -> str:
        return self.read_bytes().decode()


StoredFile = Path | Member


def size_bytes(file: StoredFile) -> int:
    return file.size if isinstance(file, Member) else file.stat().st_size


class Shards:
    """The files of a channel's shards by kind. Raises ValueError, naming shard and file, for damaged ones."""

    def __init__(self, paths: list[Path]) -> None:
        # It costs a moment to import, and most channels hold loose files.
        from webdataset.tariterators import base_plus_ext

        self.by_ending: dict[str, list[tuple[str, Member]]] = {}
        self.descriptions: list[Member] = []
        without_index = 0
        for shard in paths:
            members, has_index = _open(shard)
            without_index += not has_index
            for member in members:
                if member.name == DESCRIPTION:
                    self.descriptions.append(member)
                key, ending = base_plus_ext(member.name)
                if key is not None and not _is_passed_over(member):
                    self.by_ending.setdefault(f".{ending.lower()}", []).append((_name_of(key), member))
        if without_index:
            logger.info(
                "%d of %d shards have no index and were gone through from end to end; "
                "scripts/pack_dataset.py writes shards that have one",
                without_index,
                len(paths),
            )

    def find(self, kind: str, endings: Collection[str]) -> dict[str, Member]:
        """The files of a kind of WORDS with one of `endings`, by the names of their pictures."""
        files: dict[str, Member] = {}
        for ending in endings:
            for name, member in self.by_ending.get(WORDS[kind] + ending, []):
                if name in files:
                    raise ValueError(f"{files[name]} and {member} have the same name; keep one")
                files[name] = member
        return files

    def expected(self, name: str, kind: str, ending: str) -> str:
        """Where a picture's file of a kind should be."""
        return f"in a shard {key_of(name)}{WORDS[kind]}{ending}"

    def description(self) -> Member | None:
        """The shards' own dataset.json, which must be the same in all that have one."""
        texts = [member.read_bytes() for member in self.descriptions]
        for member, text in zip(self.descriptions, texts, strict=True):
            if text != texts[0]:
                raise ValueError(
                    f"{self.descriptions[0]} and {member} differ; a dataset.json beside the shards goes for all"
                )
        return self.descriptions[0] if self.descriptions else None


def key_of(name: str) -> str:
    """The key of a picture's name: webdataset ends it at the first dot that is not in a folder's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.replace("%", "%25").replace(".", "%2E")


def _name_of(key: str) -> str:
    folder, slash, file = key.removeprefix("./").rpartition("/")
    return folder + slash + file.replace("%2E", ".").replace("%25", "%")


def _is_passed_over(member: Member) -> bool:
    """What tools leave in archives: hidden and empty files, beside our own notes."""
    parts = member.name.removeprefix("./").split("/")
    return not member.size or member.name.startswith(META) or any(part.startswith(".") for part in parts)


def _open(shard: Path) -> tuple[list[Member], bool]:
    """The files of a shard, and whether its index told them. Raises ValueError for what is no whole tar file."""
    try:
        with tarfile.open(shard, "r:") as tar:
            first = tar.next()
            if first and first.name == INDEX and (members := _indexed(shard, tar, first)):
                return members, True
            return _walk(shard, tar, first), False
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{shard} is not a readable tar file without compression: {error}") from error


def _indexed(shard: Path, tar: tarfile.TarFile, index: tarfile.TarInfo) -> list[Member] | None:
    """What the index says; None where the shard is no longer as it was packed."""
    file = tar.extractfile(index)
    assert file is not None  # it is of a regular file
    start = padded(index.offset_data + index.size)
    try:
        members = [
            Member(shard, name, start + offset, size) for name, (offset, size) in json.load(file).items()
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{shard}: {INDEX} is damaged: {error}") from error
    whole = members and _ends_at(tar, padded(members[-1].offset + members[-1].size))
    return members if whole else None


def _walk(shard: Path, tar: tarfile.TarFile, info: tarfile.TarInfo | None) -> list[Member]:
    """What the headers say, from `info` on."""
    members = []
    try:
        while info:
            if info.isreg() and not info.issparse():
                members.append(Member(shard, info.name, info.offset_data, info.size))
            tar.members.clear()  # type: ignore[attr-defined]  # kilobytes for each file, as webdataset does
            info = tar.next()
        whole = _ends_at(tar, tar.offset)  # tarfile takes a damaged header for the end
    except tarfile.ReadError:
        whole = False
    if not whole:
        last = members[-1].name if members else "its start"
        raise ValueError(f"{shard} is damaged or cut off after {last}")
    return members


def _ends_at(tar: tarfile.TarFile, offset: int) -> bool:
    """Whether the block of zeros that ends a tar file is there."""
    assert tar.fileobj is not None
    tar.fileobj.seek(offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def padded(size: int) -> int:
    """Up to the next whole block of a tar file."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
