"""A channel as people have it: a folder of pictures with their truth, and `dataset.json` that describes it.

images/room/0001.jpg      a picture: JPEG, PNG or WebP
normals/room/0001.png     its normal map, matched by the path without the ending
depth/room/0001.png       or instead its depth, from which normals are made; a camera is needed then
cameras/room/0001.json    its camera: {"fx": 600, "fy": 600, "cx": 320, "cy": 240}
cameras.json              or one camera for all
masks/room/0001.png       optional: pixels that are black do not count
dataset.json              {"axes": "rdf", "coding": "png16", "invalid": "zero"}, or {"depth": "z", "coding": "png16"}

or all of that in tar files (`shards.py`). Each folder is listed once, and a file is read when its sample is
asked for: the channel may be a mount that streams from S3.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surface_normals import axes
from surface_normals.codecs import Picture, decode_picture
from surface_normals.training.cameras import Intrinsics, read_intrinsics
from surface_normals.training.depth_normals import normals_from_depth, z_from_ray_length
from surface_normals.training.description import DESCRIPTION, EXAMPLE, read_description
from surface_normals.training.loose_files import LooseFiles, walk
from surface_normals.training.shards import WORDS, Shards, StoredFile
from surface_normals.training.truth import unit_normals_of
from surface_normals.training.truth_files import ENDINGS, Vectors, read_depth, read_mask, read_normals

MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


@dataclass(frozen=True)
class StoredSample:
    """One picture with its truth in the numbers of its file, which are cheap to cut and to carry."""

    name: str
    picture: Picture
    """uint8 (H, W, 3)"""
    vectors: Vectors
    """(H, W, 3), in the axes and the coding of the file, of any length"""
    valid: NDArray[np.bool_]
    """(H, W), false where the file says that there is no truth"""
    turn: NDArray[np.float32]
    """(3, 3), brings the vectors to `rdf`: vector @ turn"""
    intrinsics: Intrinsics | None = None
    """its camera; None where the channel does not tell"""


@dataclass(frozen=True)
class Sample:
    """One picture with its truth."""

    name: str
    picture: Picture
    """uint8 (H, W, 3)"""
    normals: NDArray[np.float32]
    """(H, W, 3), `rdf`, unit where valid, zero elsewhere"""
    valid: NDArray[np.bool_]
    """(H, W)"""
    intrinsics: Intrinsics | None = None
    """its camera; None where the channel does not tell"""
    depth: NDArray[np.float32] | None = None
    """(H, W), along the camera's axis, 0 where unknown; None where the channel has normals"""


class PictureDataset:
    """The samples of one channel, in the order of their names, read when asked for.

    Raises ValueError, naming channel and file, when the folder is not such a data set.
    """

    def __init__(self, channel: str, folder: Path) -> None:
        self.channel, self.folder = channel, folder
        try:
            self._list_files()
        except ValueError as error:
            raise ValueError(f"channel {channel!r}: {error}") from error

    def _list_files(self) -> None:
        folder = self.folder
        files = _files_of(folder)
        self.described_in: StoredFile = folder / DESCRIPTION
        if isinstance(files, Shards) and not self.described_in.is_file():
            self.described_in = files.description() or self.described_in
        self.description = read_description(self.described_in)
        self.images: Mapping[str, StoredFile] = files.find("images", MEDIA_TYPES)
        if not self.images:
            raise ValueError(f"no pictures ({', '.join(MEDIA_TYPES)}) in {folder}")
        kind, endings = self.description.kind, ENDINGS[self.description.coding]
        self.truth: Mapping[str, StoredFile] = files.find(kind, endings)
        self.masks: Mapping[str, StoredFile] = files.find("masks", (".png",))
        self.cameras: Mapping[str, StoredFile] = files.find("cameras", (".json",))
        self.camera = read_intrinsics(path) if (path := folder / "cameras.json").is_file() else None
        _expect_all(self.images, self.truth, files, kind, endings[0])
        if self.masks or self.description.invalid == "mask":
            _expect_all(self.images, self.masks, files, "masks", ".png")
        if self.cameras or (kind == "depth" and self.camera is None):
            _expect_all(self.images, self.cameras, files, "cameras", ".json")
        self.names = sorted(self.images)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """The same for the same names: what the order of the training batches hangs on."""
        return fingerprint_of(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample. Raises ValueError naming the file when it is damaged or does not fit."""
        stored, depth = self._read(index)
        normals, valid = unit_normals_of(stored.vectors, stored.valid, stored.turn)
        return Sample(stored.name, stored.picture, normals, valid, stored.intrinsics, depth)

    def stored(self, index: int) -> StoredSample:
        """A sample with its vectors as stored. Raises ValueError as above."""
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[StoredSample, NDArray[np.float32] | None]:
        try:
            return self._sample_of(self.names[index])
        except ValueError as error:
            raise ValueError(f"channel {self.channel!r}: {error}") from error

    def _sample_of(self, name: str) -> tuple[StoredSample, NDArray[np.float32] | None]:
        """The sample of this name, and its depth where there is one."""
        picture = _read_picture(self.images[name])
        intrinsics = read_intrinsics(self.cameras[name]) if self.cameras else self.camera
        path, coding = self.truth[name], self.description.coding
        depth = None
        if self.description.kind == "normals":
            vectors, valid = read_normals(path, coding, self.description.invalid)
        else:
            depth = read_depth(path, coding)
            assert intrinsics is not None  # __init__ saw to it
            if self.description.depth == "ray":
                depth = z_from_ray_length(depth, intrinsics)
            vectors, valid = normals_from_depth(depth, intrinsics)
        _expect_size(path, valid, self.images[name], picture)
        if self.masks:
            mask = read_mask(self.masks[name])
            _expect_size(self.masks[name], mask, self.images[name], picture)
            valid = valid & mask
        turn = np.diag(axes.TO_RDF[self.description.axes]).astype(np.float32)
        return StoredSample(name, picture, vectors, valid, turn, intrinsics), depth


def fingerprint_of(names: Iterable[str]) -> str:
    """The same for the same names in the same order."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


def _read_picture(path: StoredFile) -> Picture:
    try:
        return decode_picture(path.read_bytes(), MEDIA_TYPES[path.suffix.lower()])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _expect_size(
    path: StoredFile, array: NDArray[np.bool_], picture_path: StoredFile, picture: Picture
) -> None:
    if array.shape != picture.shape[:2]:
        sizes = [f"{width}x{height}" for height, width in (picture.shape[:2], array.shape)]
        raise ValueError(f"{picture_path} is {sizes[0]} but {path} is {sizes[1]}")


def _files_of(folder: Path) -> LooseFiles | Shards:
    """Raises ValueError where there are neither pictures in a folder images/ nor tar files."""
    if (folder / "images").is_dir():
        return LooseFiles(folder)
    if shards := sorted(path for path in walk(folder) if path.suffix.lower() == ".tar"):
        return Shards(shards)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    raise ValueError(
        f"no folder images/ in {folder}, which holds {listed or 'nothing'}; pictures belong in images/, their "
        f"normal maps under the same names in normals/, and beside these dataset.json like {EXAMPLE}; "
        "or all of it in tar shards without compression"
    )


def _expect_all(
    images: Mapping[str, StoredFile],
    found: Mapping[str, StoredFile],
    files: LooseFiles | Shards,
    kind: str,
    ending: str,
) -> None:
    if missing := [name for name in images if name not in found]:
        raise ValueError(
            f"{len(missing)} of {len(images)} pictures have no {WORDS[kind].removeprefix('.')}, the first is "
            f"{images[missing[0]]}; {files.expected(missing[0], kind, ending)} is missing or empty"
            + (", and so is cameras.json, one camera for all" if kind == "cameras" else "")
        )
