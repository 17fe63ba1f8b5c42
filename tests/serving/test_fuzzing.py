"""Thousands of requests that no client should send: none is the server's fault, none stops it, none makes it grow."""

import base64
import http.client
import io
import json
import os
import re
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from damaged_pictures import damaged, pickled_array, sound_pictures
from serving.errors import RequestError
from serving.media_types import Offer, carried_type, declared_type, response_type
from surface_normals import codecs
from surface_normals.answers import RESPONSE_TYPES
from surface_normals.artifact import save_artifact
from surface_normals.network import SHAPES, SurfaceNormalNetwork

MEBIBYTE = 2**20
SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(2**32))
"""Another in each run; a failure says which, to be set for the next."""
SUPPORTED = ("image/jpeg", "image/png", "image/webp", "application/x-npy", "application/json")
OFFERS = tuple(map(Offer.parse, RESPONSE_TYPES))

OURS = settings(
    max_examples=1000,
    derandomize=False,  # others in each run; of a failure, the example is printed, and how to have it again
    print_blob=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def one_of(words):
    return st.sampled_from(words.split())


WORDS = st.sampled_from([*SUPPORTED, *RESPONSE_TYPES, "\xe9", "\t", "x" * 500]) | one_of(
    """*/* image/* * / q=0.5 q=2 q=-1 q=nan q=1e309 q axes=rub dtype=float16 bits=16 charset=utf-8 boundary=
    " \\ a*=utf-8''%ff"""
)
PARTS = st.lists(
    WORDS | st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=10), max_size=6
)
HEADER = st.builds(str.join, st.sampled_from([";", ",", "; ", " ", "", "="]), PARTS)


@OURS
@given(HEADER)
def test_any_accept_is_answered_or_406(accept):
    try:
        answer = response_type(accept, OFFERS, OFFERS[0].usual())
    except RequestError as error:
        assert error.code == 406  # noqa: PT017 (either is right)
    else:
        assert answer.full.partition(";")[0] in {offer.name for offer in OFFERS}
        assert answer.content_type.isascii()


@OURS
@given(HEADER, st.binary(max_size=20))
def test_any_content_type_is_taken_or_415(content_type, body):
    try:
        media_type = carried_type(declared_type(content_type, SUPPORTED), body, SUPPORTED)
    except RequestError as error:
        assert error.code == 415  # noqa: PT017 (either is right)
    else:
        assert media_type in SUPPORTED


def growth_of(server):
    """Megabytes, threads and open files of the one worker."""
    (worker,) = server.children()
    status = Path(f"/proc/{worker}/status").read_text()
    size, threads = re.search(r"VmRSS:\s+(\d+)", status)[1], re.search(r"Threads:\s+(\d+)", status)[1]
    return int(size) / 1024, int(threads), len(list(Path(f"/proc/{worker}/fd").iterdir()))


def exchange(port, request, *, half_closed=False):
    """Send bytes, and read the answer: its status, or None when the server only closed the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            client.sendall(request)
            if half_closed:
                client.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(client, method=request.partition(b" ")[0].decode())
            answer.begin()
            body = answer.read()
        except (ConnectionError, http.client.BadStatusLine):
            return None
    if answer.status >= 400 and body:  # HEAD has none
        assert len(body) < 2048
        assert json.loads(body)["error"]
    return answer.status


NAMES = one_of(
    """Content-Type Accept Content-Length Transfer-Encoding Content-Encoding Content-Range Connection Expect Host
    X-Amzn-SageMaker-Inference-Id X-Amzn-SageMaker-Custom-Attributes X-Forwarded-For Cookie Range Upgrade Trailer
    Authorization If-None-Match TE Date"""
)
VALUES = HEADER | one_of(
    """chunked gzip gzip,chunked identity close keep-alive upgrade 100-continue websocket bytes=0- 0 -1 3 1,3 0x3
    99999999999999999999 application/json application/jsonlines"""
)
METHODS = st.sampled_from(["POST"] * 6 + ["GET", "PUT", "HEAD", "OPTIONS", "BREW", "post", ""])
PATHS = st.sampled_from(
    ["/invocations"] * 6
    + ["/ping", "/%00", "//invocations", "/invocations?a=1", "/models/x/invoke", "*", "../..", "/" * 5000]
)
VERSIONS = st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2", "HTTP/9.9", ""])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
BODIES = st.sampled_from([b"[1]", b"", b"{", b"3\r\n[1]\r\n0\r\n\r\n", b"\xff" * 100, b"[1]\n[2]\n"])


def test_any_request_is_answered(start_server):
    server = start_server(MAX_CONSECUTIVE_FAILURES=1000, LOG_LEVEL="DEBUG", REQUEST_TIMEOUT_SECONDS=5)
    answered, early = [], []

    @settings(OURS, max_examples=2000)
    @given(METHODS, PATHS, VERSIONS, HEADERS, BODIES, st.booleans())
    def ask(method, path, version, headers, body, measured):
        lines = [f"{method} {path} {version}", "Host: x", *(f"{name}: {value}" for name, value in headers)]
        if measured:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        status = exchange(server.port, head + body, half_closed=True)
        assert status is None or status < 500 or status in (501, 505)
        answered.append(status)
        if len(answered) == 500:
            early.extend(growth_of(server))

    ask()
    memory, threads, files = early
    assert {200, 400, 404, 405, 406, 415} <= set(answered)
    assert growth_of(server)[0] - memory < 10
    assert growth_of(server)[1] <= threads + 8  # the pool starts them as it needs them
    assert growth_of(server)[2] <= files + 8
    assert server.invoke([1]).json() == [2]


@pytest.fixture(scope="module")
def start_normals(start_server, tmp_path_factory):
    def start(**settings):
        base = tmp_path_factory.mktemp("fuzzed")
        (base / "model").mkdir()
        torch.manual_seed(0)
        save_artifact(base / "model", SurfaceNormalNetwork(SHAPES["tiny"]), {})
        return start_server(base=base, model=None, MODEL_PACKAGE="surface_normals", **settings)

    return start


@pytest.fixture(scope="module")
def normals(start_normals):
    return start_normals()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_picture_is_answered(normals, tmp_path):
    files = [*sound_pictures().values(), pickled_array(tmp_path / "executed")]
    small = [body for body in damaged(files, 1500, seed=2) if not is_large(body)]
    types = [
        None,
        "image/jpeg",
        "image/png",
        "application/x-npy",
        "application/json",
        "application/jsonlines",
    ]

    def send(numbered):
        number, body = numbered
        answer = normals.post(body, {"Content-Type": types[number % len(types)]})
        assert answer.status_code in (200, 400, 413), answer.text
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(send, enumerate(small[:500])))
        memory, threads, files = growth_of(normals)
        rest = list(pool.map(send, enumerate(small[500:])))
    assert set(first + rest) >= {200, 400}
    assert growth_of(normals)[0] - memory < 150  # pictures of many sizes: what torch keeps for each
    assert growth_of(normals)[1] <= threads + 8
    assert growth_of(normals)[2] <= files + 8
    assert not (tmp_path / "executed").exists()
    assert normals.ping()[0] == 200


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_thousands_of_damaged_pictures_are_answered_one_by_one(start_normals, tmp_path):
    """As lines, which a server process decodes as it does requests, many times as fast."""
    server = start_normals(ERROR_RECORDS="on", REQUEST_TIMEOUT_SECONDS=600)
    files = [*sound_pictures().values(), pickled_array(tmp_path / "executed")]
    small = [body for body in damaged(files, 9000, seed=SEED) if not is_large(body)]

    def send(start):
        bodies = small[start : start + 50]
        lines = b"\n".join(b'{"b64": "%s"}' % base64.b64encode(body) for body in bodies)
        answer = requests.post(
            f"{server.url}/invocations", lines, headers={"Content-Type": "application/jsonlines"}, timeout=300
        )
        assert answer.status_code == 200, f"FUZZ_SEED={SEED}: {answer.text}"
        records = [json.loads(line) for line in answer.text.split("\n")]
        assert len(records) == len(bodies), f"FUZZ_SEED={SEED}"
        return [record.get("status", 200) for record in records]

    with ThreadPoolExecutor(4) as pool:
        statuses = [status for each in pool.map(send, range(0, len(small), 50)) for status in each]
    assert len(statuses) > 7500
    assert {200, 400} <= set(statuses) <= {200, 400, 413, 415}, f"FUZZ_SEED={SEED}"
    assert not (tmp_path / "executed").exists()
    assert server.ping()[0] == 200


def test_a_picture_of_48_million_pixels_is_refused_clearly_and_does_no_harm(start_normals):
    """As too large, or, by an engine that takes it in tiles and is too slow here, with the time that it had.

    The model is then given up, which would go on for minutes, and free for the next one after a tile.
    """
    server = start_normals(REQUEST_TIMEOUT_SECONDS=5)
    rows = np.arange(6000, dtype=np.uint16)[:, None] + np.arange(8000, dtype=np.uint16)
    file = io.BytesIO()
    Image.fromarray((rows >> 6).astype(np.uint8)).save(file, "JPEG")
    answer = server.post(file.getvalue(), {"Content-Type": "image/jpeg"})
    said = {413: "pixels", 504: "REQUEST_TIMEOUT_SECONDS"}
    assert said[answer.status_code] in answer.json()["message"]
    assert server.ping()[0] == 200
    began = time.monotonic()
    while (answer := server.post(sound_pictures()["jpeg"])).status_code == 504:
        assert time.monotonic() - began < 60
    assert answer.status_code == 200


def is_large(body):
    """Damage may make a sound picture of many megapixels, which is not what these tests are about."""
    for media_type in (*codecs.PICTURE_FORMATS, codecs.NPY):
        try:
            picture = codecs.decode_picture(body, media_type, max_pixels=codecs.MAX_TILED_PIXELS)
        except ValueError:
            continue
        return picture.size > 300_000
    return False


def test_a_gigabyte_is_refused_before_it_has_come(shared_server):
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", shared_server.port, timeout=30)
    memory = growth_of(shared_server)[0]
    piece = bytes(MEBIBYTE)
    connection.request(
        "POST", "/invocations", (piece for _ in range(1024)), {"Content-Length": str(1024 * MEBIBYTE)}
    )
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["max_body_bytes"] == 100 * MEBIBYTE
    connection.close()
    assert time.monotonic() - began < 30
    assert growth_of(shared_server)[0] - memory < 30


@pytest.mark.parametrize("megabytes", [0, 1, 30])
def test_bodies_of_no_picture_are_400_whatever_their_size(normals, megabytes):
    assert normals.post(b"\xff" + bytes(megabytes * MEBIBYTE)).status_code == 400
