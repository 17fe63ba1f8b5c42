"""SageMaker's own SDKs in local mode with both images: the README's programs, each in an environment of its own."""

import functools
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from PIL import Image

pytestmark = [pytest.mark.docker, pytest.mark.long]

HERE = Path(__file__).resolve().parent
SECTION = (
    (HERE.parents[1] / "README.md")
    .read_text()
    .partition("### With SageMaker's SDKs")[2]
    .partition("\n## ")[0]
)
PROGRAMS = dict(zip(("v2", "v3"), re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL), strict=True))
OF_EVERY_TYPE = {
    "size": "tiny",
    "epochs": 1,
    "batch_size": 2,
    "crop_height": 64,
    "crop_width": 64,
    "workers": 0,
    "learning_rate": 0.001,
    "tensorboard": False,
}
SERVE_WITH_V3 = """
import boto3
from sagemaker.core.local.local_session import LocalSession

session = LocalSession(boto3.Session(region_name="us-east-1"))
client = session.sagemaker_client
container = {"Image": "surface-normals-serve:local", "ModelDataUrl": "file://MODEL", "Environment": {}}
client.create_model("m", container)
variant = {"ModelName": "m", "VariantName": "v", "InstanceType": "local", "InitialInstanceCount": 1}
client.create_endpoint_config("c", [variant])
client.create_endpoint("e", "c")
picture = open("photo.jpg", "rb").read()
answer = session.sagemaker_runtime_client.invoke_endpoint(
    picture, "e", ContentType="image/jpeg", Accept="image/png"
)
open("normals.png", "wb").write(answer["Body"].read())
client.delete_endpoint("e")
"""
MY_SCRIPT = "import torch\nprint('my own code', torch.__version__)\nopen('/opt/ml/model/weights', 'w').write('mine')\n"


@pytest.fixture(scope="module")
def sts():
    """The SDKs ask who they are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", url.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while True:
        try:
            requests.get(url, timeout=5)
            break
        except requests.ConnectionError:
            assert time.monotonic() < end
            time.sleep(0.1)
    yield url
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def python_with(tmp_path_factory):
    """`python_with("v2")`: a Python with that version, made when it is first asked for; the two cannot share one."""

    @functools.cache
    def make(version):
        folder = tmp_path_factory.mktemp("sdk") / version
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin/python", "-m", "pip", "install", "-q", "-r", HERE / f"sdk-{version}.txt"]
        subprocess.run(install, check=True, timeout=1800)
        return folder / "bin/python"

    return make


@pytest.fixture
def nothing_left(engine):
    """The SDKs leave the containers that they started."""

    def of_compose():
        return engine.containers.list(all=True, filters={"label": "com.docker.compose.service"})

    before = {container.id for container in of_compose()}
    yield
    for container in of_compose():
        if container.id not in before:
            container.remove(force=True, v=True)


@pytest.fixture
def run(nothing_left, python_with, sts, make_tree, tmp_path, train_image, serve_image):
    """Run a program in a folder of its own; what it printed."""
    tree = make_tree()
    tree.add_pictures("train", 4)
    picture = io.BytesIO()
    Image.effect_mandelbrot((90, 61), (-2, -1, 1, 1), 20).convert("RGB").save(picture, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(picture.getvalue())
    settings = tmp_path / "config.yaml"
    settings.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n"
    )
    # Version 2 asks AWS, at an address of its own, for a bucket to put code into, unless code is local too.
    (tmp_path / ".sagemaker").mkdir()
    (tmp_path / ".sagemaker/config.yaml").write_text("local: {local_code: true}\n")
    environment = {
        "PATH": f"{Path(os.environ.get('DOCKER') or '/usr/bin/docker').parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": sts,
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(settings),
    }

    def run(version, program, **changes):
        values = {
            "/home/me/my_pictures/train": str(tree.root / "input/data/train"),
            "surface-normals-train:local": train_image,
            "surface-normals-serve:local": serve_image,
            "ROLE_ARN": "arn:aws:iam::123456789012:role/sagemaker",
            '{"size": "S", "encoder_weights": "random", "epochs": 20}': repr(OF_EVERY_TYPE),
            **changes,
        }
        for name, value in values.items():
            program = program.replace(name, value)
        result = subprocess.run(
            [python_with(version), "-c", program],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
        return result.stdout + result.stderr

    run.folder = tmp_path
    return run


def config_of(said):
    """The hyperparameters as the job understood them: what each host wrote down, the same on all."""
    told = re.findall(r"hyperparameters of surface_normals: (\{.*?\})\s*$", said, re.MULTILINE)
    assert told
    found = {name: value for text in told for name, value in json.loads(text).items()}
    assert all(json.loads(text) == found for text in told)
    return found


def is_normal_map(path):
    with Image.open(path) as normals:
        return (normals.format, normals.mode, normals.size) == ("PNG", "RGB", (90, 61))


def test_version_2_trains_deploys_and_predicts(run):
    said = run("v2", PROGRAMS["v2"])
    assert "training complete" in said
    assert config_of(said).items() >= OF_EVERY_TYPE.items()
    assert is_normal_map(run.folder / "normals.png")


def test_version_3_trains_and_serves(run):
    said = run("v3", PROGRAMS["v3"])
    assert "training complete" in said
    assert config_of(said).items() >= OF_EVERY_TYPE.items()
    [model] = run.folder.rglob("compressed_artifacts/model.tar.gz")
    run("v3", SERVE_WITH_V3, MODEL=str(model))
    assert is_normal_map(run.folder / "normals.png")


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_two_instances_train_together(run, version):
    fit = PROGRAMS[version].partition("predictor =")[0].replace("instance_count=1", "instance_count=2")
    said = run(version, fit)
    assert said.count("training complete") == 2
    assert config_of(said).items() >= OF_EVERY_TYPE.items()


def test_version_3_runs_code_of_its_own_in_the_image(run):
    (run.folder / "source").mkdir()
    (run.folder / "source" / "mine.py").write_text(MY_SCRIPT)
    source = "from sagemaker.train.configs import SourceCode\n"
    program = source + PROGRAMS["v3"].replace(
        "training_image=",
        'source_code=SourceCode(source_dir="source", entry_script="mine.py"), training_image=',
    )
    assert "my own code 2." in run("v3", program)
