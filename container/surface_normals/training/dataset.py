"""A channel as people have it: a folder with `images/`, `normals/`, perhaps `masks/`, and `dataset.json`.

images/room/0001.jpg      a picture: JPEG, PNG or WebP
normals/room/0001.png     its normal map, matched by the path without the ending
masks/room/0001.png       optional: pixels that are black do not count
dataset.json              {"axes": "rdf", "coding": "png16", "invalid": "zero"}
"""

import hashlib
import json
import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from surface_normals import axes
from surface_normals.codecs import Picture, decode_picture

SUFFIXES = {
    "images": {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"},
    "normals": {".png": "png", ".npy": "npy"},
    "masks": {".png": "png"},
}
DESCRIPTION = "dataset.json"
CHOICES = {"axes": tuple(axes.TO_RDF), "coding": ("png8", "png16", "npy"), "invalid": ("zero", "mask")}
EXAMPLE = '{"axes": "rdf", "coding": "png16", "invalid": "zero"}'


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


class PictureDataset:
    """The samples of one channel, in the order of their names, read when asked for.

    Raises ValueError, naming channel and file, when the folder is not such a data set.
    """

    def __init__(self, channel: str, folder: Path) -> None:
        self.channel, self.folder = channel, folder
        self.description = _read_description(channel, folder)
        self.images = _find_files(channel, folder, "images")
        normals = _find_files(channel, folder, "normals")
        masks = _find_files(channel, folder, "masks") if (folder / "masks").is_dir() else {}
        if not self.images:
            raise ValueError(
                f"channel {channel!r}: no pictures ({', '.join(SUFFIXES['images'])}) in {folder / 'images'}"
            )
        for kind, files, needed in (
            ("normal map", normals, True),
            ("mask", masks, self.description["invalid"] == "mask" or bool(masks)),
        ):
            missing = [name for name in self.images if name not in files] if needed else []
            if missing:
                raise ValueError(
                    f"channel {channel!r}: {len(missing)} of {len(self.images)} pictures have no {kind}, "
                    f"the first is {self.images[missing[0]]}; it must have the same name under {kind.split()[0]}s/"
                )
        self.normals, self.masks = normals, masks
        self.names = sorted(self.images)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """The same for the same names: what the order of the training batches hangs on."""
        return hashlib.sha256("\0".join(self.names).encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        """Read one sample. Raises ValueError naming the file when it is damaged or does not fit."""
        name = self.names[index]
        picture = self._read_picture(self.images[name])
        normals, valid = self._read_normals(self.normals[name])
        if normals.shape != picture.shape:
            raise ValueError(
                f"channel {self.channel!r}: {self.images[name]} is {_size(picture)} "
                f"but its normal map {self.normals[name]} is {_size(normals)}"
            )
        if self.masks:
            valid &= self._read_mask(self.masks[name], valid.shape)
        length = np.linalg.norm(normals, axis=2)
        valid &= np.isfinite(length) & (
            length > 0.1
        )  # also false for NaN; shorter is no direction but a rounded zero
        unit = np.where(valid[:, :, None], normals / np.where(valid, length, 1)[:, :, None], 0)
        return Sample(name, picture, axes.convert(unit.astype(np.float32), self.description["axes"]), valid)

    def _read_picture(self, path: Path) -> Picture:
        try:
            return decode_picture(path.read_bytes(), SUFFIXES["images"][path.suffix.lower()])
        except ValueError as error:
            raise ValueError(f"channel {self.channel!r}: {path}: {error}") from error

    def _read_normals(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors as stored, (H, W, 3), and where they are not declared invalid, (H, W)."""
        coding = self.description["coding"]
        try:
            stored = np.load(path, allow_pickle=False) if coding == "npy" else _read_png(path, coding)
        except (
            ValueError,
            OSError,
            RuntimeError,
            EOFError,
            SyntaxError,
            TypeError,
            tokenize.TokenError,
        ) as error:
            raise ValueError(
                f"channel {self.channel!r}: {path} is not readable as {coding}: {error}"
            ) from error
        if (
            not isinstance(stored, np.ndarray)
            or stored.ndim != 3
            or stored.shape[2] != 3
            or (coding == "npy") != (stored.dtype.kind == "f")
        ):
            raise ValueError(
                f"channel {self.channel!r}: {path} is {_kind(stored)}; "
                f"{coding} normals are {'float16 or float32' if coding == 'npy' else 'RGB'} (height, width, 3)"
            )
        valid: NDArray[np.bool_] = np.ones(stored.shape[:2], dtype=np.bool_)
        if self.description["invalid"] == "zero":
            valid = np.asarray(stored.any(axis=2))
        normals: NDArray[np.float32] = stored.astype(np.float32)
        if coding != "npy":
            normals = normals * np.float32(2 / np.iinfo(stored.dtype).max) - 1
        return normals, valid

    def _read_mask(self, path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        try:
            with Image.open(path) as image:
                mask: NDArray[np.bool_] = np.asarray(image.convert("L")) > 0
        except OSError as error:
            raise ValueError(f"channel {self.channel!r}: {path} is not a readable mask: {error}") from error
        if mask.shape != shape:
            raise ValueError(
                f"channel {self.channel!r}: mask {path} is {_size(mask)}, its picture {shape[1]}x{shape[0]}"
            )
        return mask


def _read_png(path: Path, coding: str) -> NDArray[np.uint8 | np.uint16]:
    """Through torchvision: Pillow cuts 16-bit colours to 8 without a word."""
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    stored: NDArray[np.uint8 | np.uint16] = decode_image(data, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    bits = stored.dtype.itemsize * 8
    if f"png{bits}" != coding:
        raise ValueError(f"it has {bits} bits a colour; say so in {DESCRIPTION}")
    return stored


def _read_description(channel: str, folder: Path) -> dict[str, str]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(
            f"channel {channel!r}: no {path}; it states how normals are stored, for example {EXAMPLE}"
        )
    try:
        description = json.loads(path.read_text())
        values = {key: description[key] for key in CHOICES}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"channel {channel!r}: {path} must be JSON like {EXAMPLE}: {error!r}") from error
    for key, value in values.items():
        if value not in CHOICES[key]:
            raise ValueError(
                f"channel {channel!r}: {path}: {key} is {value!r}; choose from {', '.join(CHOICES[key])}"
            )
    return values


def _find_files(channel: str, folder: Path, kind: str) -> dict[str, Path]:
    """Files of one kind by their path without ending. What S3 prefixes also hold (empty "folder" objects,
    hidden files, other endings) is passed over."""
    files: dict[str, Path] = {}
    for path in sorted((folder / kind).rglob("*")):
        relative = path.relative_to(folder / kind)
        hidden = any(part.startswith(".") for part in relative.parts)
        if (
            hidden
            or path.suffix.lower() not in SUFFIXES[kind]
            or not path.is_file()
            or path.stat().st_size == 0
        ):
            continue
        name = relative.with_suffix("").as_posix()
        if name in files:
            raise ValueError(f"channel {channel!r}: {files[name]} and {path} have the same name; keep one")
        files[name] = path
    return files


def _kind(stored: object) -> str:
    return f"{stored.dtype} {stored.shape}" if isinstance(stored, np.ndarray) else type(stored).__name__


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
