"""scripts/drift_report.py on captured requests in SageMaker's published layout."""

import base64
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from surface_normals.drift_figures import describe
from surface_normals.training.reference import reference_of

PICTURES = 60


def photo(number, brightness=1.0):
    pixels = np.random.default_rng(number).integers(40, 120 + number, (24, 32, 3)) * brightness
    return pixels.astype(np.uint8)


def normals_of(number):
    tilt = np.random.default_rng(number).normal(0, 0.2, 2)
    vector = np.array([*tilt, -1.0])
    return np.broadcast_to((vector / np.linalg.norm(vector)).astype(np.float32), (24, 32, 3))


def captured(picture, answer, axes="rdf"):
    files = [io.BytesIO(), io.BytesIO()]
    Image.fromarray(picture).save(files[0], "PNG")
    np.save(files[1], answer.astype(np.float16))

    def side(mode, content_type, file):
        data = base64.b64encode(file.getvalue()).decode()
        return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": "BASE64"}

    record = {
        "captureData": {
            "endpointInput": side("INPUT", "image/png", files[0]),
            "endpointOutput": side("OUTPUT", f"application/x-npy;dtype=float16;axes={axes}", files[1]),
        },
        "eventMetadata": {"eventId": "0", "inferenceTime": "2026-11-23T10:00:00Z"},
        "eventVersion": "0",
    }
    return json.dumps(record)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model.tar.gz that was measured on the pictures 0 to 59."""
    errors = np.full((24, 32), 5.0)
    figures = [describe(photo(number), normals_of(number), errors) for number in range(PICTURES)]
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.json").write_text(json.dumps({"reference": reference_of(figures)}))
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        tar.add(folder / "model.json", "model.json")
    return folder


def report(pytestconfig, *words, **options):
    script = pytestconfig.rootpath / "scripts/drift_report.py"
    command = [sys.executable, str(script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def indices(result):
    """PSI of each figure, as printed."""
    rows = [line.split() for line in result.stdout.splitlines() if " PSI " in line]
    return {row[0]: float(row[2]) for row in rows}


def test_dark_pictures_and_turned_normals_are_told(pytestconfig, model, tmp_path):
    turned = np.float32([1, -1, -1])  # the same normals, in other axes, which the answer states
    lines = [captured(photo(n, 0.3), normals_of(n) * turned, axes="rub") for n in range(PICTURES)]
    lines[7] = lines[7][:100]
    lines.append(json.dumps({"captureData": {"endpointInput": {"data": "aGFsbG8=", "encoding": "BASE64"}}}))
    (tmp_path / "captured/day").mkdir(parents=True)
    (tmp_path / "captured/day/a.jsonl").write_text("\n".join(lines[:30]))
    (tmp_path / "captured/day/b.jsonl").write_text("\n".join(lines[30:]))
    out = tmp_path / "page.html"
    result = report(pytestconfig, tmp_path / "captured", "--reference", model / "model.tar.gz", "--out", out)
    assert result.returncode == 0, result.stderr
    assert "59 requests, 2 lines passed over" in result.stdout
    psi = indices(result)
    assert psi["brightness"] > 0.5
    assert max(psi["normal_right"], psi["normal_down"], psi["sharpness"]) < 0.1
    assert "expected_error_degrees" not in psi
    page = out.read_text()
    assert "not a line of data capture" in page
    assert "Not told by the captured answers: expected_error_degrees." in page
    assert page.count("<svg") == len(psi)
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_the_same_pictures_from_s3_are_alike(pytestconfig, model, tmp_path, aws, environment):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="captured-here")
    lines = "\n".join(captured(photo(number), normals_of(number)) for number in range(PICTURES))
    s3.put_object(Bucket="captured-here", Key="e/AllTraffic/2026/11/23/10/a.jsonl", Body=lines.encode())
    result = report(pytestconfig, "s3://captured-here/e", "--reference", model, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert max(indices(result).values()) < 0.05  # the normals went through float16
    assert (tmp_path / "drift.html").is_file()


def test_what_cannot_be_compared_is_one_clear_line(pytestconfig, model, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = report(pytestconfig, tmp_path / "empty", "--reference", model)
    (tmp_path / "model.json").write_text("{}")
    unmeasured = report(pytestconfig, tmp_path / "empty", "--reference", tmp_path)
    assert (nothing.returncode, unmeasured.returncode) == (1, 1)
    assert "no captured request in 0 .jsonl files" in nothing.stderr
    assert "train with a channel `validation`" in unmeasured.stderr
    assert len(nothing.stderr.strip().splitlines()) == len(unmeasured.stderr.strip().splitlines()) == 1
