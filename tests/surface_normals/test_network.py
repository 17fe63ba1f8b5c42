import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from surface_normals import predictor
from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.network import SHAPES, SurfaceNormalNetwork, expected_error_degrees
from surface_normals.predictor import SurfaceNormalPredictor
from surface_normals.torch_engine import TorchEngine


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return SurfaceNormalNetwork(SHAPES["tiny"]).eval()


@pytest.fixture(scope="module")
def ready(tiny):
    return SurfaceNormalPredictor(TorchEngine(tiny, torch.device("cpu")))


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tiny_has_less_than_a_million_parameters(tiny):
    assert sum(parameter.numel() for parameter in tiny.parameters()) < 1_000_000


@pytest.mark.parametrize("size", SHAPES)
def test_every_pixel_gets_a_unit_normal_and_a_positive_concentration(size):
    network = SurfaceNormalNetwork(SHAPES[size]).eval()
    with torch.inference_mode():
        normals, concentration = network(torch.rand(2, 3, 64, 96))
    assert normals.shape == (2, 3, 64, 96)
    assert concentration.shape == (2, 1, 64, 96)
    assert torch.allclose(normals.norm(dim=1), torch.ones(2, 64, 96), atol=1e-5)
    assert (concentration > 0).all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (64, 48), (33, 200)])
def test_a_map_has_its_pictures_size(ready, height, width):
    (output,) = ready.predict([picture(height, width)])
    assert output.normals.shape == (height, width, 3)
    assert output.expected_error_degrees.shape == (height, width)
    assert output.normals.dtype == np.float32
    assert np.allclose(np.linalg.norm(output.normals, axis=2), 1, atol=1e-5)
    assert output.expected_error_degrees.min() > 0
    assert output.expected_error_degrees.max() < 90


def test_a_batch_gives_what_each_gives_alone(ready):
    pictures = [picture(48, 80, seed) for seed in range(3)]
    together = ready.predict(pictures)
    for one, alone in zip(together, (ready.predict([p])[0] for p in pictures), strict=True):
        assert np.allclose(one.normals, alone.normals, atol=1e-4)


def test_expected_error_has_its_limits():
    concentration = torch.tensor([1e-8, 1000.0], dtype=torch.float64)
    assert expected_error_degrees(concentration)[0].item() == pytest.approx(90, abs=1e-4)
    assert expected_error_degrees(concentration)[1].item() == pytest.approx(math.degrees(2 / 1000), rel=1e-4)


@pytest.mark.parametrize("k", [0.01, 0.5, 3.0, 40.0])
def test_expected_error_is_the_mean_of_its_density(k):
    angle = torch.linspace(0, math.pi, 200_001, dtype=torch.float64)
    density = torch.exp(-k * angle) * torch.sin(angle)
    mean = torch.trapezoid(angle * density, angle) / torch.trapezoid(density, angle)
    assert expected_error_degrees(torch.tensor(k, dtype=torch.float64)).item() == pytest.approx(
        math.degrees(mean.item()), abs=1e-3
    )


def test_artifact_round_trip(tmp_path, tiny):
    save_artifact(tmp_path, tiny, {"revision": "abc"})
    network, description = load_artifact(tmp_path)
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    assert description["revision"] == "abc"
    assert description["axes"] == "rdf"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_loaded_model_predicts(tmp_path, tiny):
    save_artifact(tmp_path, tiny, {})
    (output,) = predictor.load(tmp_path).predict([picture(40, 40)])
    assert output.normals.shape == (40, 40, 3)


def break_empty(folder, tiny):
    pass


def break_weights_missing(folder, tiny):
    save_artifact(folder, tiny, {})
    (folder / "model.safetensors").unlink()


def break_other_weights(folder, tiny):
    save_artifact(folder, tiny, {})
    save_file({"something": torch.zeros(3)}, folder / "model.safetensors")


def break_truncated(folder, tiny):
    save_artifact(folder, tiny, {})
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def break_format(folder, tiny):
    save_artifact(folder, tiny, {"format": 99})


def break_axes(folder, tiny):
    save_artifact(folder, tiny, {"axes": "rub"})


def break_encoder(folder, tiny):
    save_artifact(folder, tiny, {"architecture": {**asdict(SHAPES["tiny"]), "encoder": "vgg"}})


def break_json(folder, tiny):
    save_artifact(folder, tiny, {})
    (folder / "model.json").write_text("{")


def break_no_object(folder, tiny):
    save_artifact(folder, tiny, {})
    (folder / "model.json").write_text(json.dumps([1]))


@pytest.mark.parametrize(
    "damage",
    [
        break_empty,
        break_weights_missing,
        break_other_weights,
        break_truncated,
        break_format,
        break_axes,
        break_encoder,
        break_json,
        break_no_object,
    ],
)
def test_a_folder_without_a_model_of_ours_is_one_clear_line(tmp_path, tiny, damage):
    damage(tmp_path, tiny)
    with pytest.raises(ValueError, match=str(tmp_path)) as caught:
        predictor.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_driver_that_torch_cannot_use_is_no_silent_cpu(tmp_path, monkeypatch):
    from surface_normals import device

    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02\nGCC version: 12\n")
    monkeypatch.setattr(device, "DRIVER_VERSION", version)
    if torch.cuda.is_available():
        pytest.skip("this machine's GPU works")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(RuntimeError, match=r"470\.57\.02.*CUDA_VISIBLE_DEVICES"):
        device.pick_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.pick_device().type == "cpu"
