"""Thousands of damaged pictures: each is a picture or the client's mistake, soon, and leaves nothing behind."""

import contextlib
import re
import time
from pathlib import Path

import numpy as np
import pytest

from damaged_pictures import SIDE, damaged, pickled_array, sound_pictures
from serving.media_types import carried_type
from surface_normals import codecs

KINDS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "npy": codecs.NPY}


def resident_megabytes():
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("name", sound_pictures())
def test_every_kind_of_picture_is_taken(name):
    body = sound_pictures()[name]
    picture = codecs.decode_picture(body, KINDS[name.split()[0]])
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)


def is_picture(number, body):
    """Whether it can be decoded. Raises whatever is no ValueError; each fifth is declared as what it is not."""
    media_type = carried_type(None, body, tuple(KINDS.values()))
    if number % 5 == 0:
        media_type = list(KINDS.values())[number % 4]
    began = time.thread_time()
    picture = None
    with contextlib.suppress(ValueError):
        picture = codecs.decode_picture(body, media_type)
    assert time.thread_time() - began < 2
    assert picture is None or (picture.dtype == np.uint8 and picture.shape[2:] == (3,))
    return picture is not None


def test_a_palette_picture_without_its_palette_is_the_clients_mistake():
    png = sound_pictures()["png palette"]
    start = png.index(b"PLTE") - 4
    length = int.from_bytes(png[start : start + 4], "big")
    with pytest.raises(ValueError, match=r"not a readable PNG picture \(\w+"):
        codecs.decode_picture(png[:start] + png[start + 12 + length :], "image/png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_what_cannot_be_read_is_the_clients_mistake(tmp_path):
    files = [*sound_pictures().values(), pickled_array(tmp_path / "executed")]
    bodies = list(damaged(files, 8_000, seed=1))
    taken = sum(map(is_picture, range(len(bodies)), bodies))
    assert taken > 1000  # else the damage was too great to test anything
    settled = resident_megabytes()
    list(map(is_picture, range(4000), bodies))
    assert resident_megabytes() - settled < 30
    assert not (tmp_path / "executed").exists()
