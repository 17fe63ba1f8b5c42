"""Every form of an answer holds the same normals."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image

from surface_normals import axes
from surface_normals.answers import RESPONSE_TYPES, encode_answer
from surface_normals.training.evaluation import angular_error_degrees


def split(parameter):
    key, _, values = parameter.partition("=")
    return key, values


def every_type():
    found = []
    for text in RESPONSE_TYPES:
        name, *parameters = text.split(";")
        choices = [
            [f"{key}={value}" for value in values.split("|")] for key, values in map(split, parameters)
        ]
        found += [";".join([name, *chosen]) for chosen in itertools.product(*choices)]
    return found


def prediction(height=21, width=34):
    vectors = np.random.default_rng(1).normal(size=(height, width, 3))
    normals = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)
    return normals, np.linspace(0, 90, height * width, dtype=np.float32).reshape(height, width)


def test_every_axes_can_be_asked_for_in_every_type():
    assert len(every_type()) == 2 * 4 * 2 + 2 * 4 + 4


@pytest.mark.parametrize("media_type", every_type())
def test_an_answer_holds_the_normals_in_the_axes_that_were_asked_for(media_type):
    normals, errors = prediction()
    name, *parameters = media_type.split(";")
    chosen = dict(map(split, parameters))
    body = encode_answer(normals, errors, media_type)
    if name == "application/json":
        summary = json.loads(body)
        assert summary["axes"] == chosen["axes"]
        assert summary["mean_normal"] == pytest.approx(
            axes.convert(normals.mean(axis=(0, 1)), chosen["axes"]), abs=1e-4
        )
        return
    if name == "image/png":
        bits = int(chosen["bits"])
        data = torch.frombuffer(bytearray(body), dtype=torch.uint8)
        stored = decode_image(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
        assert stored.dtype.itemsize * 8 == bits
        answer, limit_degrees = stored / (2**bits - 1) * 2 - 1, {8: 0.4, 16: 0.002}[bits]
    else:
        answer = np.load(io.BytesIO(body))
        assert answer.dtype == chosen["dtype"]
        assert answer.shape == (21, 34, 4 if chosen["confidence"] == "yes" else 3)
        assert answer[:, :, 3:].ravel() == pytest.approx(errors.ravel()[: answer[:, :, 3:].size], rel=1e-3)
        limit_degrees = {"float32": 1e-4, "float16": 0.06}[chosen["dtype"]]
    back = axes.convert(answer[:, :, :3].astype(np.float32), chosen["axes"])
    assert angular_error_degrees(back, normals).max() < limit_degrees


def test_a_summary_has_no_words_for_what_is_not_a_number():
    normals, errors = prediction()
    normals[0, 0] = np.nan
    with pytest.raises(ValueError, match="JSON"):
        encode_answer(normals, errors, "application/json;axes=rdf")
