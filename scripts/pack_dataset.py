#!/usr/bin/env python3
"""Pack a folder of pictures with their truth into tar shards, which training reads in its place.

Few large files are quicker to copy to S3 and to start from than many small ones, and with ShardedByS3Key a
picture stays with its truth. Every file's bytes are kept. The shards are named as the webdataset library does,
KEY.jpg, KEY.normals.png, KEY.mask.png, KEY.camera.json, and each begins with dataset.json and an index. Shards
of other makers with such names can be packed anew, to have these.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tarfile import BLOCKSIZE, TarInfo

from tqdm import tqdm
from webdataset import TarWriter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from surface_normals.training.dataset import PictureDataset
from surface_normals.training.dataset_check import SAMPLES_AT_START, inspect, spread
from surface_normals.training.shards import DESCRIPTION, INDEX, WORDS, StoredFile, key_of, padded, size_bytes


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing left behind
    source, destination = arguments.source, arguments.destination
    try:
        dataset = PictureDataset(str(source), source)
        if refusal := inspect(dataset, spread(len(dataset), SAMPLES_AT_START)).refusal:
            raise ValueError(refusal)
        shards = pack(dataset, destination, arguments.shard_megabytes * 1_000_000)
    except (OSError, ValueError) as error:
        sys.exit(f"pack_dataset: {error}")
    except KeyboardInterrupt:
        sys.exit(f"pack_dataset: interrupted, {destination} was not made")
    print(f"{destination}: {len(dataset)} pictures in {shards} shards")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="what would be a channel of the training job")
    parser.add_argument("destination", type=Path, help="where to; must not exist or be empty")
    parser.add_argument("--shard-megabytes", type=int, default=250, help="size of a shard, about (250)")
    arguments = parser.parse_args()
    if arguments.shard_megabytes < 1:
        parser.error(f"--shard-megabytes is {arguments.shard_megabytes}: a shard has at least 1")
    return arguments


def pack(dataset: PictureDataset, destination: Path, shard_bytes: int) -> int:
    """Write the shards of a data set into a folder, which appears when it is complete; their number."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} exists and is not an empty folder: remove it or name another")
    unfinished = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        unfinished.mkdir(parents=True)
        shards = 0
        with tqdm(total=len(dataset), unit=" pictures", disable=None) as bar:
            for shards, samples in enumerate(in_parts(dataset, shard_bytes), start=1):
                write_shard(unfinished / f"shard-{shards - 1:06d}.tar", dataset, samples, bar)
        if PictureDataset("packed", unfinished).names != dataset.names:
            raise ValueError(
                f"some names of {dataset.folder} cannot stand in a shard, a folder __meta__ for one"
            )
        unfinished.replace(destination)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return shards


def in_parts(dataset: PictureDataset, shard_bytes: int) -> Iterator[list[str]]:
    """The names in order, so many at a time as go into a shard."""
    part: list[str] = []
    part_bytes = 0
    for name in dataset.names:
        sample_bytes = sum(BLOCKSIZE + padded(size_of(file)) for file in files_of(dataset, name).values())
        if part and part_bytes + sample_bytes > shard_bytes:
            yield part
            part, part_bytes = [], 0
        part.append(name)
        part_bytes += sample_bytes
    yield part


def files_of(dataset: PictureDataset, name: str) -> dict[str, StoredFile | bytes]:
    """A sample's files by their names in a shard, in the order in which training reads them."""
    sample: dict[str, StoredFile | bytes] = {
        WORDS[kind] + found[name].suffix.lower(): found[name]
        for kind, found in (
            ("images", dataset.images),
            ("cameras", dataset.cameras),
            (dataset.description.kind, dataset.truth),
            ("masks", dataset.masks),
        )
        if found
    }
    if not dataset.cameras and dataset.camera:
        sample[f"{WORDS['cameras']}.json"] = json.dumps(dataset.camera._asdict()).encode()
    return {key_of(name) + ending: file for ending, file in sample.items()}


def size_of(file: StoredFile | bytes) -> int:
    return len(file) if isinstance(file, bytes) else size_bytes(file)


def write_shard(path: Path, dataset: PictureDataset, names: list[str], bar: tqdm) -> None:
    """The index, then the description, then sample by sample."""
    description: dict[str, StoredFile | bytes] = {DESCRIPTION: dataset.described_in.read_bytes()}
    index, end = {}, 0
    for files in (description, *(files_of(dataset, name) for name in names)):
        for name, file in files.items():
            size = size_of(file)
            offset = end + header_bytes(name, size)
            index[name] = (offset, size)
            end = offset + padded(size)
    with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        write_files(tar, {INDEX: json.dumps(index).encode(), **description})
        for name in names:
            write_files(tar, files_of(dataset, name))
            bar.update()


def header_bytes(name: str, size: int) -> int:
    """What stands before a file in a shard: more than a block where its name is long, or not ASCII."""
    header = TarInfo(name)
    header.size = size
    return len(header.tobuf())


def write_files(tar: TarWriter, files: dict[str, StoredFile | bytes]) -> None:
    for name, file in files.items():
        folder, slash, last = name.rpartition("/")
        key, _, ending = last.partition(".")
        data = file if isinstance(file, bytes) else file.read_bytes()
        tar.write({"__key__": folder + slash + key, ending: data})


if __name__ == "__main__":
    main()
