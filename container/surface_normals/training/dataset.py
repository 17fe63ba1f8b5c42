"""A channel as people have it: a folder of pictures with their truth, and `dataset.json` that describes it.

images/room/0001.jpg      a picture: JPEG, PNG or WebP
normals/room/0001.png     its normal map, matched by the path without the ending
depth/room/0001.png       or instead its depth, from which normals are made; a camera is needed then
cameras/room/0001.json    its camera: {"fx": 600, "fy": 600, "cx": 320, "cy": 240}
cameras.json              or one camera for all
masks/room/0001.png       optional: pixels that are black do not count
dataset.json              {"axes": "rdf", "coding": "png16", "invalid": "zero"}, or {"depth": "z", "coding": "png16"}

Each folder is listed once, and a file is read when its sample is asked for: the channel may be a mount
that streams from S3.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surface_normals import axes
from surface_normals.codecs import Picture, decode_picture
from surface_normals.training.cameras import Intrinsics, read_intrinsics
from surface_normals.training.depth_normals import normals_from_depth, z_from_ray_length
from surface_normals.training.description import EXAMPLE, read_description
from surface_normals.training.truth_files import ENDINGS, read_depth, read_mask, read_normals

MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
MIN_LENGTH = 0.1
"""A shorter vector is no direction but a rounded zero."""


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
        if not (folder / "images").is_dir():
            raise ValueError(_what_is_there_instead(folder))
        self.description = read_description(folder)
        self.images = _find_files(folder / "images", MEDIA_TYPES)
        if not self.images:
            raise ValueError(f"no pictures ({', '.join(MEDIA_TYPES)}) in {folder / 'images'}")
        self.truth = _find_files(folder / self.description.kind, ENDINGS[self.description.coding])
        self.masks = _find_files(folder / "masks", (".png",))
        self.cameras = _find_files(folder / "cameras", (".json",))
        self.camera = read_intrinsics(path) if (path := folder / "cameras.json").is_file() else None
        self._expect_all(self.truth, self.description.kind, ENDINGS[self.description.coding][0])
        if self.masks or self.description.invalid == "mask":
            self._expect_all(self.masks, "masks", ".png")
        if self.cameras or (self.description.kind == "depth" and self.camera is None):
            self._expect_all(self.cameras, "cameras", ".json")
        self.names = sorted(self.images)

    def _expect_all(self, files: dict[str, Path], kind: str, ending: str) -> None:
        if missing := [name for name in self.images if name not in files]:
            raise ValueError(
                f"{len(missing)} of {len(self.images)} pictures have no file in {kind}/, the first is "
                f"{self.images[missing[0]]}; {self.folder / kind / missing[0]}{ending} is missing or empty"
                + (", and so is cameras.json, one camera for all" if kind == "cameras" else "")
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """The same for the same names: what the order of the training batches hangs on."""
        return hashlib.sha256("\0".join(self.names).encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        """Read one sample. Raises ValueError naming the file when it is damaged or does not fit."""
        stored = self.stored(index)
        length = np.linalg.norm(stored.normals, axis=2)
        valid = stored.valid & np.isfinite(length) & (length > MIN_LENGTH)
        unit = np.where(valid[:, :, None], stored.normals / np.where(valid, length, 1)[:, :, None], 0)
        normals = axes.convert(unit.astype(np.float32), self.description.axes)
        return replace(stored, normals=normals, valid=valid)

    def stored(self, index: int) -> Sample:
        """A sample whose vectors are still as stored: in the declared axes, of any length."""
        name = self.names[index]
        try:
            return self._read(name)
        except ValueError as error:
            raise ValueError(f"channel {self.channel!r}: {error}") from error

    def _read(self, name: str) -> Sample:
        picture = _read_picture(self.images[name])
        intrinsics = read_intrinsics(self.cameras[name]) if self.cameras else self.camera
        path, coding = self.truth[name], self.description.coding
        if self.description.kind == "normals":
            normals, valid = read_normals(path, coding, self.description.invalid)
        else:
            depth = read_depth(path, coding)
            assert intrinsics is not None  # __init__ saw to it
            if self.description.depth == "ray":
                depth = z_from_ray_length(depth, intrinsics)
            normals, valid = normals_from_depth(depth, intrinsics)
        _expect_size(path, valid, self.images[name], picture)
        if self.masks:
            mask = read_mask(self.masks[name])
            _expect_size(self.masks[name], mask, self.images[name], picture)
            valid = valid & mask
        return Sample(name, picture, normals, valid, intrinsics)


def _read_picture(path: Path) -> Picture:
    try:
        return decode_picture(path.read_bytes(), MEDIA_TYPES[path.suffix.lower()])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _expect_size(path: Path, array: NDArray[np.bool_], picture_path: Path, picture: Picture) -> None:
    if array.shape != picture.shape[:2]:
        sizes = [f"{width}x{height}" for height, width in (picture.shape[:2], array.shape)]
        raise ValueError(f"{picture_path} is {sizes[0]} but {path} is {sizes[1]}")


def _find_files(folder: Path, endings: Collection[str]) -> dict[str, Path]:
    """Files below `folder` with one of `endings`, in either case, by their path without it."""
    files: dict[str, Path] = {}
    for path in sorted(_walk(folder)):
        if path.suffix.lower() in endings:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in files:
                raise ValueError(f"{files[name]} and {path} have the same name; keep one")
            files[name] = path
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """All files below `folder`, but for what S3 prefixes also hold: empty "folder" objects and hidden files."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file() and entry.stat().st_size:
                yield Path(entry.path)


def _what_is_there_instead(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return (
        f"no folder images/ in {folder}, which holds {listed or 'nothing'}; pictures belong in images/, their "
        f"normal maps under the same names in normals/, and beside these dataset.json like {EXAMPLE}"
    )
