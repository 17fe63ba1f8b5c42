"""One file of truth as an array: normals, depth or a mask, in each coding that dataset.json can name.

Files are read whole and in order: mounts that stream from S3 are fast at nothing else.
"""

import io
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from surface_normals.training.shards import StoredFile

Vectors = NDArray[Any]
"""(H, W, 3) in the numbers of the file: uint8, uint16, float16 or float32."""

ENDINGS = {"png8": (".png",), "png16": (".png",), "npy": (".npy",), "npz": (".npz",)}
UNREADABLE = (
    ValueError,
    OSError,
    RuntimeError,
    EOFError,
    SyntaxError,
    TypeError,
    KeyError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy's, torchvision's and Pillow's readers raise on damaged bytes."""


def read_normals(path: StoredFile, coding: str, invalid: str) -> tuple[Vectors, NDArray[np.bool_]]:
    """Vectors as stored, (H, W, 3), and where they are not declared invalid, (H, W). Raises ValueError."""
    is_picture = coding.startswith("png")
    try:
        stored = _read_png(path, coding, invalid) if is_picture else _read_array(path, coding, "normals")
    except UNREADABLE as error:
        raise ValueError(f"{path} is not readable as {coding}: {error}") from error
    colours = 4 if invalid == "alpha" else 3
    if (
        not isinstance(stored, np.ndarray)
        or stored.ndim != 3
        or stored.shape[2] != colours
        or is_picture == (stored.dtype.kind == "f")
    ):
        raise ValueError(
            f"{path} is {_kind(stored)}; {coding} normals are "
            f"{'RGB' if is_picture else 'float16 or float32'} (height, width, 3)"
        )
    valid: NDArray[np.bool_] = np.ones(stored.shape[:2], dtype=np.bool_)
    if invalid == "zero":
        # Plane by plane is ten times as fast as any(axis=2), and joining bits faster than comparing.
        x, y, z = np.moveaxis(stored if is_picture else stored != 0, 2, 0)
        valid = (x | y | z) != 0
    elif invalid == "alpha":
        # Half transparent pixels mix the surface with what is behind it.
        valid, stored = stored[:, :, 3] == np.iinfo(stored.dtype).max, stored[:, :, :3]
    if not is_picture and stored.dtype not in (np.float16, np.float32):
        stored = stored.astype(np.float32)  # float64, or another machine's order of bytes
    return stored, valid


def read_depth(path: StoredFile, coding: str) -> NDArray[np.float32]:
    """Depth (H, W) in the file's unit, 0 where there is none. Raises ValueError."""
    try:
        stored = _read_grey16(path) if coding == "png16" else _read_array(path, coding, "depth")
    except UNREADABLE as error:
        raise ValueError(f"{path} is not readable as {coding}: {error}") from error
    if isinstance(stored, np.ndarray) and stored.ndim == 3 and stored.shape[2] == 1:
        stored = stored[:, :, 0]
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in "fui":
        raise ValueError(f"{path} is {_kind(stored)}; a depth is one number a pixel (height, width)")
    depth: NDArray[np.float32] = stored.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def read_mask(path: StoredFile) -> NDArray[np.bool_]:
    """True (H, W) where the mask is not black. Raises ValueError."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            # Pillow cuts 16 bits at 255 when it makes them 8, so ask before.
            pixels = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
            return np.asarray(pixels > 0)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable mask: {error}") from error


def _read_png(path: StoredFile, coding: str, invalid: str) -> NDArray[np.uint8 | np.uint16]:
    """Through torchvision: Pillow cuts 16-bit colours to 8 without a word."""
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    decoded = decode_image(data, ImageReadMode.UNCHANGED if invalid == "alpha" else ImageReadMode.RGB)
    stored: NDArray[np.uint8 | np.uint16] = decoded.permute(1, 2, 0).numpy()
    bits = stored.dtype.itemsize * 8
    if f"png{bits}" != coding:
        raise ValueError(f"it has {bits} bits a colour; say so in dataset.json")
    if invalid == "alpha" and stored.shape[2] != 4:
        raise ValueError("it has no alpha; choose another `invalid` in dataset.json")
    return stored


def _read_grey16(path: StoredFile) -> NDArray[np.generic]:
    with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
        if not image.mode.startswith("I"):
            raise ValueError(f"it is {image.mode}; a depth is grey of 16 bits")
        return np.asarray(image)


def _read_array(path: StoredFile, coding: str, name: str) -> object:
    """The array of an .npy file; of an .npz file the one called `name`, or its only one."""
    loaded = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    if coding == "npy":
        return loaded
    if isinstance(loaded, np.ndarray):
        raise ValueError("it is an .npy file")
    with loaded:
        if name not in loaded.files and len(loaded.files) != 1:
            raise ValueError(f"it holds {', '.join(loaded.files) or 'nothing'}; call one of them {name}")
        return loaded[name if name in loaded.files else loaded.files[0]]


def _kind(stored: object) -> str:
    return f"{stored.dtype} {stored.shape}" if isinstance(stored, np.ndarray) else type(stored).__name__
