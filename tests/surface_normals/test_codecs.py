import contextlib
import io
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from surface_normals import axes, codecs


def picture(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(array, file_format, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, file_format, **options)
    return file.getvalue()


def unit_normals(height=20, width=30):
    vectors = np.random.default_rng(1).normal(size=(height, width, 3))
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("media_type", "options"), [("image/png", {}), ("image/webp", {"lossless": True})])
def test_lossless_pictures_arrive_unchanged(media_type, options):
    body = file_of(picture(), codecs.PICTURE_FORMATS[media_type], **options)
    assert np.array_equal(codecs.decode_picture(body, media_type), picture())


def test_jpeg_arrives_about_unchanged():
    flat = np.full((32, 48, 3), (200, 100, 50), np.uint8)
    decoded = codecs.decode_picture(file_of(flat, "JPEG", quality=95), "image/jpeg")
    assert decoded.shape == flat.shape
    assert np.abs(decoded.astype(int) - flat).max() < 4


def test_npy_arrives_unchanged():
    assert np.array_equal(codecs.decode_picture(codecs.encode_npy(picture()), codecs.NPY), picture())


def test_a_turned_camera_is_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees
    body = file_of(picture(20, 30), "PNG", exif=exif)
    assert codecs.decode_picture(body, "image/png").shape == (30, 20, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode):
    file = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(file, "JPEG" if mode == "CMYK" else "PNG")
    media_type = "image/jpeg" if mode == "CMYK" else "image/png"
    decoded = codecs.decode_picture(file.getvalue(), media_type)
    assert decoded.shape == (20, 30, 3)
    assert decoded.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_cut():
    grey = np.full((20, 20), 0x8000, np.uint16)
    assert (codecs.decode_picture(file_of(grey, "PNG"), "image/png") == 0x80).all()


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([[print]], dtype=object), allow_pickle=True)
    return file.getvalue()


def npy_with_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", "image/png"),
        (b"hello", "image/jpeg"),
        (file_of(picture(), "PNG")[:-300], "image/png"),
        (file_of(picture(), "JPEG")[:200], "image/jpeg"),
        (file_of(picture(), "PNG"), "image/jpeg"),
        (file_of(picture(8, 40), "PNG"), "image/png"),
        (b"", codecs.NPY),
        (codecs.encode_npy(picture())[:-1], codecs.NPY),
        (codecs.encode_npy(picture().astype(np.float64)), codecs.NPY),
        (codecs.encode_npy(picture()[:, :, 0]), codecs.NPY),
        (pickled(), codecs.NPY),
        (npy_with_header("{'descr': ("), codecs.NPY),
        (npy_with_header("  x"), codecs.NPY),
        (npy_with_header("[]"), codecs.NPY),
    ],
)
def test_bad_bytes_are_a_value_error(body, media_type):
    with pytest.raises(ValueError, match=r"picture|array"):
        codecs.decode_picture(body, media_type)


def test_damaged_files_never_raise_anything_else():
    random = np.random.default_rng(2)
    for media_type, file_format in codecs.PICTURE_FORMATS.items():
        good = np.frombuffer(file_of(picture(64, 64), file_format), np.uint8)
        for _ in range(100):
            bad = good.copy()
            bad[random.integers(0, bad.size, 8)] = random.integers(0, 256, 8)
            with contextlib.suppress(ValueError):
                codecs.decode_picture(bad.tobytes(), media_type)


def test_a_bomb_is_refused_before_it_is_decoded():
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    empty = b"IDAT" + zlib.compress(b"")
    body = (
        b"\x89PNG\r\n\x1a\n"
        + chunk
        + (len(empty) - 4).to_bytes(4, "big")
        + empty
        + zlib.crc32(empty).to_bytes(4, "big")
    )
    with pytest.raises(codecs.PictureTooLarge) as caught:
        codecs.decode_picture(body, "image/png")
    assert caught.value.status == 413


def test_an_array_that_promises_gigabytes_is_refused():
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(codecs.PictureTooLarge):
        codecs.decode_picture(file.getvalue(), codecs.NPY)


def test_a_wall_in_front_of_the_camera_is_the_usual_lilac():
    wall = np.full((16, 16, 3), (0, 0, -1), np.float32)
    assert (codecs.lilac(wall) == (128, 128, 255)).all()
    floor = np.full((16, 16, 3), (0, -1, 0), np.float32)  # points up: green
    assert (codecs.lilac(floor) == (128, 255, 128)).all()


@pytest.mark.parametrize(
    ("encode", "bits", "limit_degrees"), [("encode_png8", 8, 0.4), ("encode_png16", 16, 0.002)]
)
def test_pngs_keep_the_normals(encode, bits, limit_degrees):
    normals = unit_normals(33, 47)
    body = getattr(codecs, encode)(normals)
    data = torch.frombuffer(bytearray(body), dtype=torch.uint8)
    stored = decode_image(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    assert stored.dtype.itemsize * 8 == bits
    back = axes.convert(stored.astype(np.float64) / (2**bits - 1) * 2 - 1, "rub")
    sine = np.linalg.norm(np.cross(back, normals), axis=2)
    assert np.degrees(np.arctan2(sine, (back * normals).sum(axis=2))).max() < limit_degrees


def test_sixteen_bit_png_is_valid_for_other_readers():
    with Image.open(io.BytesIO(codecs.encode_png16(unit_normals(33, 47)))) as image:
        image.load()
        assert image.size == (47, 33)


def test_summary_holds_numbers_that_follow_from_the_map():
    wall = np.full((16, 24, 3), (0, 0, -1), np.float32)
    summary = json.loads(codecs.encode_summary(wall, np.full((16, 24), 12.5, np.float32)))
    assert (summary["height"], summary["width"], summary["axes"]) == (16, 24, "rdf")
    assert summary["mean_normal"] == [0, 0, -1]
    assert summary["expected_error_degrees"] == {"mean": 12.5, "p25": 12.5, "p50": 12.5, "p75": 12.5}


@pytest.mark.parametrize("name", axes.TO_RDF)
def test_axes_are_their_own_inverse(name):
    normals = unit_normals()
    assert np.array_equal(axes.convert(axes.convert(normals, name), name), normals)


def test_a_wall_is_the_same_wall_in_every_convention():
    wall = {"rdf": (0, 0, -1), "rub": (0, 0, 1), "lub": (0, 0, 1), "rdb": (0, 0, 1)}
    floor = {"rdf": (0, -1, 0), "rub": (0, 1, 0), "lub": (0, 1, 0), "rdb": (0, -1, 0)}
    right = {"rdf": (1, 0, 0), "rub": (1, 0, 0), "lub": (-1, 0, 0), "rdb": (1, 0, 0)}
    for surface, expected in ((wall, (0, 0, -1)), (floor, (0, -1, 0)), (right, (1, 0, 0))):
        for name, vector in surface.items():
            assert np.array_equal(axes.convert(np.array(vector, np.float32), name), expected), name
