"""The model for other runtimes: each file against the network, at sizes it was not traced with."""

import json
import logging
import resource

import numpy as np
import pytest
import torch

from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.network import Shape, SurfaceNormalNetwork
from surface_normals.training.evaluation import angular_error_degrees
from surface_normals.training.export import export

SHAPE = Shape("plain", (8, 16), 8)  # two levels: the compilers take their time for each


def run_torch(path, picture):
    with torch.inference_mode():
        normals, concentration = torch.export.load(path).module()(torch.from_numpy(picture))
    return normals.numpy(), concentration.numpy()


def run_onnx(path, picture):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["normals", "concentration"], {"picture": picture})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize(("file", "run"), [("model.pt2", run_torch), ("model.onnx", run_onnx)])
@pytest.mark.parametrize("shape", [(1, 3, 12, 56), (2, 3, 40, 8)])
def test_an_exported_file_is_the_network_at_any_size(exported_model, file, run, shape):
    picture = np.random.default_rng(1).random(shape, np.float32)
    network, _ = load_artifact(exported_model)
    with torch.inference_mode():
        expected_normals, expected_concentration = network(torch.from_numpy(picture))
    normals, concentration = run(exported_model / file, picture)
    angles = angular_error_degrees(np.moveaxis(normals, 1, 3), np.moveaxis(expected_normals.numpy(), 1, 3))
    assert angles.mean() < 0.1
    assert concentration == pytest.approx(expected_concentration.numpy(), rel=1e-3)
    written = json.loads((exported_model / "export.json").read_text())[file]
    assert written["mean_difference_degrees"] < 0.1


def test_a_file_that_is_not_the_network_is_not_written_and_costs_nothing_else(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    save_artifact(tmp_path, SurfaceNormalNetwork(SHAPE), {})
    export("torch", tmp_path, parity_degrees=0.0)  # nothing can be closer than that
    assert "not exported as model.pt2" in caplog.text
    assert (
        "degrees from the network"
        in json.loads((tmp_path / "export.json").read_text())["model.pt2"]["failed"]
    )
    assert not (tmp_path / "model.pt2").exists()
    load_artifact(tmp_path)


FAKE = """
import os, pathlib, signal, time
model_dir = pathlib.Path({model_dir!r})
(model_dir / ".model.onnx.partial").write_bytes(b"half of it")
{last_words}
"""


@pytest.fixture
def failing_torch(tmp_path, monkeypatch):
    """Have the exporter's process find another `torch`, which leaves half a file and then does as it is told."""

    def prepare(last_words):
        (tmp_path / "fakes").mkdir()
        code = FAKE.format(model_dir=str(tmp_path / "model"), last_words=last_words)
        (tmp_path / "fakes" / "torch.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))
        (tmp_path / "model").mkdir()
        save_artifact(tmp_path / "model", SurfaceNormalNetwork(SHAPE), {})
        return tmp_path / "model"

    return prepare


@pytest.mark.parametrize(
    ("last_words", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("os._exit(0)", "said nothing of it"),
        ("raise OSError(28, 'No space left on device')", "No space left on device"),
        ("time.sleep(100)", "not done within 3 s"),
        ("(model_dir / 'asked').touch(); time.sleep(100)", "the job was stopped"),
    ],
)
def test_whatever_becomes_of_the_exporter_the_model_stays(failing_torch, last_words, cause):
    model_dir = failing_torch(last_words)
    never_ends = last_words.startswith("time.sleep")
    limit_seconds = 3 if never_ends else 100
    export("onnx", model_dir, (model_dir / "asked").exists, limit_seconds=limit_seconds)
    (model_dir / "asked").unlink(missing_ok=True)
    written = json.loads((model_dir / "export.json").read_text())
    assert cause in written["model.onnx"]["failed"]
    assert sorted(path.name for path in model_dir.iterdir()) == [
        "export.json",
        "model.json",
        "model.safetensors",
    ]
    load_artifact(model_dir)


def test_a_full_disk_costs_neither_the_job_nor_the_model_that_stands(failing_torch, caplog):
    model_dir = failing_torch("os._exit(1)")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as a full disk does, it cuts files off
    try:
        export("torch", model_dir)
        with pytest.raises(OSError, match="File too large"):
            save_artifact(model_dir, SurfaceNormalNetwork(SHAPE), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (model_dir / ".model.onnx.partial").unlink()  # not of this export
    assert "export.json is not written" in caplog.text
    assert sorted(path.name for path in model_dir.iterdir()) == ["model.json", "model.safetensors"]
    load_artifact(model_dir)


def test_without_being_asked_nothing_is_written(tmp_path):
    export("none", tmp_path)
    assert list(tmp_path.iterdir()) == []
