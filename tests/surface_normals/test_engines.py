"""What computes: ONNX Runtime beside torch, chosen by name or by itself, and without torch at all."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from surface_normals import predictor
from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.network import Shape, SurfaceNormalNetwork
from surface_normals.onnx_engine import OnnxEngine
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.evaluation import angular_error_degrees

CONTAINER = Path(__file__).resolve().parents[2] / "container"


def pictures(*sizes):
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


EXACT = ("eager", "onnx")
HAS_BFLOAT16 = bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))


def test_both_engines_give_the_same(exported_model):
    batch = pictures((30, 42), (32, 44), (29, 41))
    both = [predictor.load(exported_model, engine=name) for name in EXACT]
    assert len({one.batch_key(picture) for one in both for picture in batch}) == 1
    for expected, found in zip(*(one.predict(batch) for one in both), strict=True):
        assert found.normals.shape == expected.normals.shape
        assert found.normals.dtype == found.expected_error_degrees.dtype == np.float32
        assert angular_error_degrees(found.normals, expected.normals).mean() < 0.1
        assert found.expected_error_degrees == pytest.approx(expected.expected_error_degrees, abs=0.01)


@pytest.mark.parametrize("name", EXACT)
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


def model(folder, shape, seed, leaning=0.0):
    """A network at random; `leaning` has its normals point one way, so that rounding turns them less."""
    torch.manual_seed(seed)
    network = SurfaceNormalNetwork(shape)
    with torch.no_grad():
        network.head.bias -= torch.tensor([0.0, 0.0, leaning, 0.0])
    save_artifact(folder, network, {})
    return folder


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16 arithmetic")
def test_bfloat16_is_near_float32_or_refused(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    leaning = model(tmp_path, Shape("plain", (8, 16), 8), seed=3, leaning=3.0)
    exact, rounded = (
        predictor.load(leaning, engine=name).predict(pictures((64, 96)))[0] for name in ("eager", "bfloat16")
    )
    difference = angular_error_degrees(rounded.normals, exact.normals).mean()
    assert 1e-3 < difference < 0.3
    assert rounded.normals.dtype == np.float32
    assert any("bfloat16: the normals of a test picture" in message for message in caplog.messages)

    unsure = model(tmp_path, Shape("plain", (8, 16, 16, 16), 16), seed=2)
    with pytest.raises(ValueError, match=r"by \d+\.\d+ degrees on average.*ENGINE=eager"):
        predictor.load(unsure, engine="bfloat16")


@pytest.mark.skipif(HAS_BFLOAT16, reason="this processor has bfloat16 arithmetic")
def test_bfloat16_is_refused_where_it_would_be_slow(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match="this processor has no such arithmetic"):
        predictor.load(model(tmp_path, Shape("plain", (8, 16), 8), seed=3), engine="bfloat16")


@pytest.mark.parametrize("name", EXACT)
def test_a_picture_takes_no_more_memory_than_it_is_said_to(exported_model, name):
    """Nor is much more said: requests would be refused for nothing. Another network is another tale."""
    program = f"""
import re, sys
from pathlib import Path
import numpy as np
from surface_normals import predictor
one = predictor.load(Path({str(exported_model)!r}), engine={name!r}, threads=1)
def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
picture = np.zeros((1024, 1024, 3), np.uint8)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
before = kilobytes("VmRSS")
one.predict([picture])
print(1024 * (kilobytes("VmHWM") - before) / one.memory_bytes(picture))
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CONTAINER), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert 0.1 < float(result.stdout) < 1, result.stderr


def test_onnx_predicts_in_several_threads_at_once(exported_model):
    one = predictor.load(exported_model, engine="onnx", threads=2)
    assert one.lanes == 2
    batch = pictures(*[(64, 96)] * 8)
    expected = [one.predict([picture])[0].normals for picture in batch]
    with ThreadPoolExecutor(2) as pool:
        for found, alone in zip(
            pool.map(lambda picture: one.predict([picture])[0], batch), expected, strict=True
        ):
            assert np.allclose(found.normals, alone, atol=1e-4)


def test_export_says_which_weights_it_was_made_of(exported_model):
    facts = json.loads((exported_model / "export.json").read_text())["model.onnx"]
    assert len(facts["weights_sha256"]) == 64
