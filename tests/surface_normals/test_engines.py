"""What computes: ONNX Runtime beside torch, chosen by name or by itself, and without torch at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from surface_normals import predictor
from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.onnx_engine import OnnxEngine
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.evaluation import angular_error_degrees

CONTAINER = Path(__file__).resolve().parents[2] / "container"


def pictures(*sizes):
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_both_engines_give_the_same(exported_model):
    batch = pictures((30, 42), (32, 44), (29, 41))
    both = [predictor.load(exported_model, engine=name) for name in predictor.ENGINES]
    assert len({one.batch_key(picture) for one in both for picture in batch}) == 1
    for expected, found in zip(*(one.predict(batch) for one in both), strict=True):
        assert found.normals.shape == expected.normals.shape
        assert found.normals.dtype == found.expected_error_degrees.dtype == np.float32
        assert angular_error_degrees(found.normals, expected.normals).mean() < 0.1
        assert found.expected_error_degrees == pytest.approx(expected.expected_error_degrees, abs=0.01)


@pytest.mark.parametrize("name", predictor.ENGINES)
def test_pictures_of_other_sizes_in_its_batch_change_nothing(exported_model, name):
    one = predictor.load(exported_model, engine=name)
    batch = pictures((30, 42), (32, 44), (29, 43))
    for together, picture in zip(one.predict(batch), batch, strict=True):
        (alone,) = one.predict([picture])
        assert together.normals.shape == picture.shape
        assert np.allclose(together.normals, alone.normals, atol=1e-4)
        assert np.allclose(together.expected_error_degrees, alone.expected_error_degrees, atol=1e-2)


def test_a_cpu_takes_the_exported_program_and_a_gpu_or_a_model_without_it_torch(
    exported_model, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    predictor.load(exported_model)
    assert caplog.messages == ["engine: onnx"]
    network, _ = load_artifact(exported_model)
    save_artifact(tmp_path, network, {})
    predictor.load(tmp_path)
    assert caplog.messages[1:] == ["engine: eager"]
    with pytest.raises(ValueError, match=r"model\.onnx.*export=onnx"):
        predictor.load(tmp_path, engine="onnx")


def test_a_program_of_other_weights_is_not_taken(exported_model, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for file in exported_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["head.bias"] = weights["head.bias"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="other weights"):
        predictor.load(tmp_path, engine="onnx")
    (picture,) = pictures((32, 32))
    new = TorchEngine(load_artifact(tmp_path)[0], torch.device("cpu"))
    assert np.array_equal(
        predictor.load(tmp_path).predict([picture])[0].normals, new.run(picture[None])[0][0]
    )
    assert not np.allclose(
        OnnxEngine(exported_model).run(picture[None])[0], new.run(picture[None])[0], atol=1e-3
    )


def test_it_decodes_predicts_and_encodes_where_torch_is_not_installed(exported_model):
    program = f"""
import importlib.util, io, sys
sys.modules["torch"] = None  # to whoever imports it or looks for it: there is none
from pathlib import Path
from PIL import Image
from surface_normals import predictor
one = predictor.load(Path({str(exported_model)!r}))
file = io.BytesIO()
Image.new("L", (5001, 5000)).save(file, "PNG")
try:
    one.decode(file.getvalue(), "image/png")
except ValueError as error:
    print(error)
file = io.BytesIO()
Image.new("RGB", (50, 40), "olive").save(file, "JPEG")
(output,) = one.predict([one.decode(file.getvalue(), "image/jpeg")])
print(len(one.encode(output, "application/x-npy;dtype=float32;axes=rdf;confidence=no")))
"""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CONTAINER),
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (
        0,
        f"picture is 5001x5000; at most 25,000,000 pixels are taken\n{128 + 40 * 50 * 3 * 4}\n",
    ), result.stderr


def test_export_says_which_weights_it_was_made_of(exported_model):
    facts = json.loads((exported_model / "export.json").read_text())["model.onnx"]
    assert len(facts["weights_sha256"]) == 64
