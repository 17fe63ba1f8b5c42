"""Real pictures of every kind that a client may send, and damaged ones made of them, the same each time."""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 24


class Executed:
    """A pickle of it runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def sound_pictures():
    """One file of each kind by name. All but `pickle` can be decoded."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    frames = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    grey16 = Image.fromarray((pixels[:, :, 0].astype(np.uint16) << 8) + 7)
    kinds = {
        "jpeg": (picture, "JPEG", {}),
        "jpeg progressive": (picture, "JPEG", {"progressive": True}),
        "jpeg grey": (picture.convert("L"), "JPEG", {}),
        "jpeg cmyk": (picture.convert("CMYK"), "JPEG", {}),
        "jpeg turned": (picture, "JPEG", {"exif": exif}),
        "jpeg with profile": (picture, "JPEG", {"icc_profile": bytes(300), "comment": b"c" * 50}),
        "png": (picture, "PNG", {}),
        "png palette": (picture.convert("P"), "PNG", {"transparency": 3}),
        "png one bit": (picture.convert("1"), "PNG", {}),
        "png grey 16": (grey16, "PNG", {}),
        "png alpha": (picture.convert("RGBA"), "PNG", {"exif": exif}),
        "png animated": (picture, "PNG", frames),
        "webp": (picture, "WEBP", {}),
        "webp lossless": (picture, "WEBP", {"lossless": True, "exif": exif}),
        "webp animated": (picture, "WEBP", frames),
    }
    files = {}
    for name, (image, file_format, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, file_format, **options)
        files[name] = file.getvalue()
    arrays = {
        "npy": (pixels, (1, 0)),
        "npy 2": (pixels, (2, 0)),
        "npy fortran": (np.asfortranarray(pixels), (1, 0)),
    }
    for name, (array, version) in arrays.items():
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version=version)
        files[name] = file.getvalue()
    return files


def pickled_array(path):
    """A .npy file whose reading with pickles allowed would make a file at `path`."""
    file = io.BytesIO()
    np.save(file, np.array([Executed(path)] * 8, dtype=object), allow_pickle=True)
    return file.getvalue()


def damaged(files, count, seed):
    """`count` damaged pictures of `files` (a list of bytes)."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        body = bytearray(files[random.integers(len(files))])
        other = files[random.integers(len(files))]
        for _ in range(random.integers(1, 4)):
            if body:
                body = DAMAGES[random.integers(len(DAMAGES))](body, random, other)
        if body.startswith(b"\x89PNG") and random.random() < 0.7:
            body = with_right_checksums(body)
        yield bytes(body)


def _flip_bits(body, random, other):
    for place in random.integers(0, len(body), random.integers(1, 9)):
        body[place] ^= 1 << random.integers(8)
    return body


def _flip_in_the_head(body, random, other):
    place = random.integers(0, min(len(body), 64))
    body[place] = random.integers(256)
    return body


def _extreme_number(body, random, other):
    """Lengths and sizes are numbers of 2 or 4 bytes in all of these formats."""
    place = random.integers(0, len(body))
    number = [b"\xff\xff", b"\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"]
    chosen = number[random.integers(len(number))]
    body[place : place + len(chosen)] = chosen
    return body


def _cut_off(body, random, other):
    return body[: random.integers(0, len(body))]


def _remove(body, random, other):
    start = random.integers(0, len(body))
    del body[start : start + random.integers(1, 40)]
    return body


def _insert(body, random, other):
    place = random.integers(0, len(body))
    return body[:place] + random.bytes(random.integers(1, 40)) + body[place:]


def _repeat(body, random, other):
    start = random.integers(0, len(body))
    return body[:start] + body[start : start + 200] * random.integers(2, 20) + body[start:]


def _go_on_as_another(body, random, other):
    return body[: random.integers(0, len(body))] + other[random.integers(0, len(other)) :]


DAMAGES = (
    _flip_bits,
    _flip_in_the_head,
    _extreme_number,
    _cut_off,
    _remove,
    _insert,
    _repeat,
    _go_on_as_another,
)


def with_right_checksums(png):
    """A PNG whose chunks are believed: else nearly all damage is found by its checksum alone."""
    place, fixed = 8, bytearray(png[:8])
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunk = png[place + 4 : place + 8 + length]
        fixed += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place += 12 + length
    return fixed + png[place:]
