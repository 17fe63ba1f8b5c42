"""What `upload` and `download` share: many files at once, a bar, and whether a file is already there."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from boto3.s3.transfer import TransferConfig
from tqdm import tqdm

PARALLEL_FILES = 32
PART_BYTES = 16 * 2**20
"""From here on boto3's own transfer takes over, which sends a file in parts of this size at once."""
IN_PARTS = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8)

Item = TypeVar("Item")


def transfer(do: Callable[[Item], int], items: Sequence[Item], total_bytes: int) -> None:
    """`do` each item, which says how many bytes it was. The first failure, or Ctrl-C, ends it."""
    with (
        ThreadPoolExecutor(PARALLEL_FILES) as pool,
        tqdm(total=total_bytes, unit="B", unit_scale=True, disable=None) as bar,
    ):
        try:
            for num_bytes in pool.map(do, items):
                bar.update(num_bytes)
        except BaseException:  # must not wait for thousands of files
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def is_same(path: Path, size_bytes: int, etag: str) -> bool:
    """Whether S3 has this file's bytes: files of one picture size, as .npy, have one length whatever is in them.

    An object under a KMS key has another kind of ETag, counts as different, and is sent again.
    """
    return path.is_file() and path.stat().st_size == size_bytes and etag.strip('"') == _etag(path)


def _etag(path: Path) -> str:
    """S3's own: MD5 of the bytes, or of the MD5s of the parts and their number."""
    with path.open("rb") as file:
        digests = [_md5(part) for part in iter(lambda: file.read(PART_BYTES), b"")]
    if path.stat().st_size < PART_BYTES:
        return (digests or [_md5(b"")])[0].hex()
    return f"{_md5(b''.join(digests)).hex()}-{len(digests)}"


def _md5(part: bytes) -> bytes:
    return hashlib.md5(part, usedforsecurity=False).digest()
