"""A server of the worked model: pictures in, normal maps in every form out, alone and by the line."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from surface_normals import axes
from surface_normals.artifact import save_artifact
from surface_normals.network import SHAPES, SurfaceNormalNetwork

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def picture(file_format):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    base = tmp_path_factory.mktemp("normals")
    (base / "model").mkdir()
    torch.manual_seed(0)
    save_artifact(base / "model", SurfaceNormalNetwork(SHAPES["tiny"]), {})
    return start_server(base=base, model=None, MODEL_PACKAGE="surface_normals", AIP_PREDICT_ROUTE="/predict")


def array(answer):
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def test_axes_precision_and_confidence_are_the_clients_choice_and_are_stated(server):
    usual = server.post(picture("PNG"))
    assert usual.headers["Content-Type"] == "application/x-npy"
    assert usual.headers[ATTRIBUTES] == "dtype=float32;axes=rdf;confidence=no"
    normals = array(usual)
    assert (normals.shape, normals.dtype) == ((24, 40, 3), np.float32)

    accept = "application/x-npy; confidence=yes; axes=rub; dtype=float16"
    chosen = server.post(picture("PNG"), {"Accept": accept, ATTRIBUTES: "trace=7"})
    assert chosen.headers["Content-Type"] == "application/x-npy;dtype=float16;axes=rub;confidence=yes"
    assert chosen.headers[ATTRIBUTES] == "trace=7;dtype=float16;axes=rub;confidence=yes"
    answer = array(chosen)
    assert (answer.shape, answer.dtype) == ((24, 40, 4), np.float16)
    assert axes.convert(answer[:, :, :3].astype(np.float32), "rub") == pytest.approx(normals, abs=1e-3)
    assert ((answer[:, :, 3] > 0) & (answer[:, :, 3] < 90)).all()


@pytest.mark.parametrize(
    ("accept", "stated"),
    [
        ("image/png", "bits=8;axes=rub"),
        ("image/png;bits=16", "bits=16;axes=rub"),
        ("image/*", "bits=8;axes=rub"),
        ("application/json", "axes=rdf"),
    ],
)
def test_every_answer_states_its_axes(server, accept, stated):
    answer = server.post(picture("PNG"), {"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == accept.replace("*", "png")
    assert answer.headers[ATTRIBUTES] == stated


@pytest.mark.parametrize(
    "accept", ["image/png;bits=12", "application/x-npy;colour=red", "image/png;axes=xyz"]
)
def test_a_choice_that_is_not_offered_is_406_with_those_that_are(server, accept):
    answer = server.post(picture("PNG"), {"Accept": accept})
    assert answer.status_code == 406
    assert "image/png;bits=8|16;axes=rub|rdf|lub|rdb" in answer.json()["supported"]


@pytest.mark.parametrize("content_type", [None, "image/png", "image/jpeg", "application/x-image"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_decide_what_a_picture_is(server, content_type, file_format):
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert array(server.post(picture(file_format), headers)).shape == (24, 40, 3)


def wrapped(body):
    return json.dumps({"b64": base64.b64encode(body).decode(), "id": 3}).encode()


def test_a_picture_may_come_as_json(server):
    plain = array(server.post(picture("PNG")))
    answer = server.post(wrapped(picture("PNG")), {"Content-Type": "application/json; charset=utf-8"})
    assert np.array_equal(array(answer), plain)


@pytest.mark.parametrize(
    "body", [b"[1]", b"{", b"{}", b'{"b64": 3}', b'{"b64": "%%%"}', b"\xff", b"[" * 100_000]
)
def test_json_that_wraps_nothing_is_400(server, body):
    answer = server.post(body, {"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "b64" in answer.json()["message"]


def test_json_lines_of_pictures_are_normal_maps_by_the_line(server):
    body = b"\n".join([wrapped(picture("JPEG")), wrapped(picture("PNG"))])
    headers = {"Content-Type": "application/jsonlines"}
    summaries = [json.loads(line) for line in server.post(body, headers).text.split("\n")]
    assert [summary["width"] for summary in summaries] == [40, 40]
    lines = server.post(body, {**headers, "Accept": "application/x-npy;dtype=float16"}).text.split("\n")
    for line in map(json.loads, lines):
        assert line["content_type"] == "application/x-npy;dtype=float16"
        assert np.load(io.BytesIO(base64.b64decode(line["b64"]))).shape == (24, 40, 3)


def test_vertexs_instances_are_pictures(server):
    body = b'{"instances": [' + wrapped(picture("PNG")) + b"]}"
    answer = server.post(body, {"Content-Type": "application/json"})
    (prediction,) = answer.json()["predictions"]
    assert (prediction["height"], prediction["axes"]) == (24, "rdf")
