"""The model for other runtimes: each file against the network, at sizes it was not traced with."""

import json
import logging

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
    assert "could not be exported as model.pt2" in caplog.text
    assert (
        "degrees from the network"
        in json.loads((tmp_path / "export.json").read_text())["model.pt2"]["failed"]
    )
    assert not (tmp_path / "model.pt2").exists()
    load_artifact(tmp_path)


def test_without_being_asked_nothing_is_written(tmp_path):
    export("none", tmp_path)
    assert list(tmp_path.iterdir()) == []
