"""`make build-serve FLAVOR=cpu`: the serving image without torch, on an exported model, beside torch's own answers."""

import io
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from surface_normals import predictor
from surface_normals.artifact import save_artifact
from surface_normals.network import Shape, SurfaceNormalNetwork
from surface_normals.training.evaluation import angular_error_degrees
from surface_normals.training.export import export

ROOT = Path(__file__).resolve().parents[2]
LARGEST_MB = 500
MOST_MEMORY_MB = 350

pytestmark = [pytest.mark.docker(images=False), pytest.mark.slow]


@pytest.fixture(scope="module")
def image(engine):
    project = f"cpu-test-{uuid.uuid4().hex[:8]}"
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    bill = ROOT / "serve-cpu.cdx.json"
    before = bill.read_bytes() if bill.exists() else None
    command = ["make", "build-serve", "FLAVOR=cpu", f"PROJECT={project}"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    if before is not None:  # it is of the image that this checkout has
        bill.write_bytes(before)
    yield engine.images.get(f"{project}-serve:local")
    engine.images.remove(f"{project}-serve:local", force=True)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    save_artifact(folder, SurfaceNormalNetwork(Shape("plain", (8, 16), 8)), {})
    export("onnx", folder)
    return folder


def test_it_is_small_and_has_no_torch(image, containers):
    assert image.attrs["Size"] < LARGEST_MB * 1e6
    assert image.labels["flavor"] == "cpu"
    ended = containers.run(image, ["-c", "import torch"], entrypoint="python3", network_mode="none")
    assert "No module named 'torch'" in ended.stderr


def test_it_answers_as_torch_does_in_little_memory(image, containers, model_dir):
    mount = {str(model_dir): {"bind": "/opt/ml/model", "mode": "ro"}}
    container, url = containers.server(image, volumes=mount)
    picture = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    answer = requests.post(
        f"{url}/invocations", file.getvalue(), headers={"Content-Type": "image/png"}, timeout=60
    )
    assert answer.status_code == 200, answer.text

    [expected] = predictor.load(model_dir, engine="eager").predict([picture])
    found = np.load(io.BytesIO(answer.content))
    assert angular_error_degrees(found, expected.normals).mean() < 0.1
    memory = container.stats(stream=False)["memory_stats"]
    assert memory["usage"] - memory["stats"].get("inactive_file", 0) < MOST_MEMORY_MB * 1e6
    assert "engine: onnx" in container.logs().decode()


def test_a_model_that_was_not_exported_ends_it_with_the_reason(image, containers, tmp_path):
    save_artifact(tmp_path, SurfaceNormalNetwork(Shape("plain", (8, 16), 8)), {})
    mount = {str(tmp_path): {"bind": "/opt/ml/model", "mode": "ro"}}
    ended = containers.run(image, "serve", volumes=mount)
    assert ended.exit_code != 0
    print(ended.stderr)
    assert "export=onnx" in ended.stderr.splitlines()[-1]


def report(*command):
    command = [sys.executable, *map(str, command), "--docker", os.environ.get("DOCKER", "docker")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_report_tells_the_size_beside_its_aim_and_where_it_is(image):
    said = report(ROOT / "scripts/image_report.py", image.tags[0])
    assert said.startswith(f"{image.tags[0]}: {image.attrs['Size'] / 1e6:,.0f} MB unpacked, aim 500, cpu\n")
    assert re.search(r"^ *[\d,.]+  RUN .*pip", said, re.MULTILINE)
    assert re.search(r"^ *[\d,.]+  /opt/venv/lib/python3", said, re.MULTILINE)
    assert (
        report(ROOT / "scripts/image_report.py", "--sizes", image.tags[0]) == said.partition("\n")[0] + "\n"
    )


def test_the_start_is_measured_up_to_the_first_answer(image, model_dir):
    said = report(ROOT / "scripts/benchmark_start.py", image.tags[0], model_dir, "--rounds", "1")
    rows = re.findall(r"^(yes|no) +warm +([\d.]+) +([\d.]+) +(\d+)$", said, re.MULTILINE)
    assert [row[0] for row in rows] == ["yes", "no"]
    for _, ready, answered, memory in rows:
        assert 0 < float(ready) <= float(answered)
        assert 10 < int(memory) < MOST_MEMORY_MB
    assert re.search(r"^ +[\d.]+ +\d+  numpy$", said, re.MULTILINE)
