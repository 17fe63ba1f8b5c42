"""First and last step of a request: bytes to a picture, a normal map to bytes.

Pictures are uint8 (H, W, 3), RGB, upright (a camera's orientation tag is applied). Training reads
its pictures through the same functions.
"""

import io
import json
import struct
import tokenize
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from surface_normals import axes

MIN_SIDE = 16
MAX_PIXELS = 25_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can claim gigapixels.
25 million covers a 6000x4000 camera and needs some gigabytes of memory to predict at once."""
MAX_TILED_PIXELS = 50_000_000
"""The same where large ones are predicted in tiles: covers an 8000x6000 camera, whose normals alone are 0.6 GB."""
TILED_BYTES_PER_PIXEL, TILE_BYTES = 40, 2_800_000_000
"""Memory that such a picture takes: of itself and its answer, and of the tile that is under way."""

PICTURE_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
NPY = "application/x-npy"
PNG = "image/png"
JSON = "application/json"

Picture = NDArray[np.uint8]
Normals = NDArray[np.float32]


class PictureTooLarge(ValueError):
    """A picture of more pixels than are taken."""

    status = 413


def decode_picture(body: bytes, media_type: str, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A request's bytes as a picture. Raises ValueError saying what is wrong with them."""
    if media_type == NPY:
        picture = _decode_npy(body, max_pixels)
    else:
        picture = _decode_file(body, PICTURE_FORMATS[media_type], max_pixels)
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"picture is {width}x{height}; each side must have at least {MIN_SIDE} pixels")
    return picture


def _decode_file(body: bytes, file_format: str, max_pixels: int) -> Picture:
    try:
        with Image.open(io.BytesIO(body), formats=[file_format]) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except PictureTooLarge:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(f"picture has more than {max_pixels:,} pixels") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        AssertionError,
        struct.error,
    ) as error:
        # Pillow's readers raise all of these on damaged bytes.
        cause = str(error) or type(error).__name__
        raise ValueError(f"body is not a readable {file_format} picture ({cause})") from error


def _to_rgb(image: Image.Image) -> Picture:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would cut it at 255 instead of scaling
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureTooLarge(f"picture is {width}x{height}; at most {max_pixels:,} pixels are taken")


def _decode_npy(body: bytes, max_pixels: int) -> Picture:
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError) as error:
        # numpy parses the header as a Python literal.
        raise ValueError(f"body is not a readable .npy array ({error})") from error
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"array is {dtype} {shape}; a picture is uint8 (height, width, 3)")
    _check_size(shape[1], shape[0], max_pixels)
    if len(body) - file.tell() != shape[0] * shape[1] * 3:
        raise ValueError(f"array's header promises {shape}, its data are {len(body) - file.tell()} bytes")
    array: Picture = np.load(io.BytesIO(body), allow_pickle=False)
    return np.ascontiguousarray(array)


def encode_npy(array: NDArray[Any]) -> bytes:
    """An array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def lilac(normals: Normals, in_axes: str = "rub") -> Picture:
    """Normals (H, W, 3) in `rdf` as the usual picture: red right, green up, blue to the camera.

    With other axes than these, `rub`, the same for data; the colours are then not the usual ones.
    """
    return np.round(_to_unit_cube(normals, in_axes) * 255).astype(np.uint8)


def encode_png8(normals: Normals, in_axes: str = "rub") -> bytes:
    """The lilac picture as an 8-bit PNG. Rounding costs up to 0.4 degrees: for eyes, not for data."""
    file = io.BytesIO()
    Image.fromarray(lilac(normals, in_axes)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_png16(normals: Normals, in_axes: str = "rub") -> bytes:
    """The same colours as a 16-bit RGB PNG (rounding below 0.002 degrees).

    Written here by the PNG specification (W3C, third edition) since Pillow cannot.
    """
    height, width = normals.shape[:2]
    samples = np.round(_to_unit_cube(normals, in_axes) * 65535).astype(">u2", order="C")
    rows = samples.view(np.uint8).reshape(height, width * 6)
    up = np.diff(rows, axis=0, prepend=np.zeros((1, width * 6), np.uint8))  # filter 2: minus the row above
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), up], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(filtered.tobytes(), 1))
        + _png_chunk(b"IEND", b"")
    )


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _to_unit_cube(normals: Normals, in_axes: str) -> Normals:
    return ((axes.convert(normals, in_axes) + 1) / 2).astype(np.float32, copy=False)


def encode_summary(
    normals: Normals, expected_error_degrees: NDArray[np.float32], in_axes: str = "rdf"
) -> bytes:
    """What the map holds, in a few numbers, as JSON. Raises ValueError where one is not a number."""
    mean = axes.convert(normals.mean(axis=(0, 1), dtype=np.float64).astype(np.float32), in_axes)
    quartiles = np.percentile(expected_error_degrees, [25, 50, 75])
    summary = {
        "height": normals.shape[0],
        "width": normals.shape[1],
        "axes": in_axes,
        "mean_normal": [round(float(component), 5) for component in mean],
        "expected_error_degrees": {
            "mean": round(float(expected_error_degrees.mean(dtype=np.float64)), 3),
            **{name: round(float(q), 3) for name, q in zip(("p25", "p50", "p75"), quartiles, strict=True)},
        },
    }
    return json.dumps(summary, allow_nan=False).encode()
