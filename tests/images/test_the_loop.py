"""The loop of the README with Docker: make train-local, serve-local, invoke-local."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests
from PIL import Image

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]


def make(*words, **options):
    """`make` with the images as they are: the tests must not rebuild what they test."""
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.Popen(
        ["make", "-o", "build-train", "-o", "build-serve", *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def output_of(process, deadline_seconds):
    try:
        text, _ = process.communicate(timeout=deadline_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        pytest.fail(f"still running after {deadline_seconds} s:\n{text}")
    return text


def test_train_serve_invoke(make_tree, train_image, serve_image, tmp_path):
    project = train_image.removesuffix("-train:local")
    assert serve_image == f"{project}-serve:local"
    tree = make_tree()
    tree.add_pictures("train", 2)
    tree.set_hyperparameters(
        size="tiny", epochs="1", batch_size="2", crop_height="64", crop_width="64", workers="0"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    local = [f"PROJECT={project}", f"LOCAL_DIR={tree.root.parents[1]}", f"PORT={port}"]

    training = make("train-local", *local)
    text = output_of(training, 180)
    assert training.returncode == 0, text
    assert (tree.root / "model/model.safetensors").exists()

    serving = make("serve-local", *local)
    try:
        wait_until_ready(serving, port, deadline_seconds=120)
        picture = tmp_path / "photo.jpg"
        Image.effect_mandelbrot((90, 61), (-2, -1, 1, 1), 20).convert("RGB").save(picture)
        invoking = make("invoke-local", f"IMAGE_FILE={picture}", *local)
        text = output_of(invoking, 60)
        assert invoking.returncode == 0, text
        normals = Image.open(io.BytesIO((tree.root.parents[1] / "photo-normals.png").read_bytes()))
        assert (normals.format, normals.mode, normals.size) == ("PNG", "RGB", (90, 61))
    finally:
        os.killpg(serving.pid, signal.SIGINT)  # Ctrl-C
        output_of(serving, 60)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/ping", timeout=2)


def wait_until_ready(serving, port, deadline_seconds):
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline and serving.poll() is None:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    os.killpg(serving.pid, signal.SIGKILL)
    pytest.fail(f"/ping did not say 200 within {deadline_seconds} s:\n{serving.communicate()[0]}")
