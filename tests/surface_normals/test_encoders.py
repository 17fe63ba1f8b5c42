"""Encoders by name: the sizes' own, torchvision's and timm's, and what an artifact keeps of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from surface_normals import predictor
from surface_normals.artifact import load_artifact, save_artifact
from surface_normals.encoders import CUTS, build_encoder
from surface_normals.network import SHAPES, SurfaceNormalNetwork, shape_of
from surface_normals.predictor import SurfaceNormalPredictor
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.config import ENCODERS, Config

EFFICIENTNET, CONVNEXT, TRANSFORMER = "timm:test_efficientnet", "timm:test_convnext2", "timm:test_vit"
DINOV2 = "timm:vit_small_patch14_dinov2.lvd142m"
SWIN = "timm:swin_tiny_patch4_window7_224"  # its own features have the channels last
NAN = float("nan")


def network(encoder, intrinsics="assume"):
    torch.manual_seed(0)
    return SurfaceNormalNetwork(shape_of("tiny", encoder, intrinsics)).eval()


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_large", "convnext_tiny", EFFICIENTNET, CONVNEXT, TRANSFORMER, DINOV2, SWIN]
)
def test_an_encoder_gives_what_it_says(name):
    encoder = build_encoder(name).eval()
    with torch.inference_mode():
        features = encoder(torch.randn(1, 3, 64, 96))
    assert [x.shape for x in features] == [
        (1, width, 64 // stride, 96 // stride)
        for width, stride in zip(encoder.widths, encoder.strides, strict=True)
    ]
    assert encoder.strides[-1] == 32


@pytest.mark.parametrize("name", ["mobilenet_v3_large", EFFICIENTNET, CONVNEXT, TRANSFORMER, SWIN])
@pytest.mark.parametrize(("height", "width"), [(33, 70), (96, 33)])
def test_any_picture_size_gets_its_map_from_any_encoder(tmp_path, name, height, width):
    save_artifact(tmp_path, network(name), {})
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (output,) = predictor.load(tmp_path).predict([picture])
    assert output.normals.shape == (height, width, 3)
    assert np.allclose(np.linalg.norm(output.normals, axis=2), 1, atol=1e-5)
    assert output.normals.std() > 1e-3  # it looks at the picture


@pytest.mark.parametrize("name", [EFFICIENTNET, TRANSFORMER])
def test_an_artifact_rebuilds_its_encoder(tmp_path, name):
    made = network(name, "off")
    save_artifact(tmp_path, made, {})
    loaded, description = load_artifact(tmp_path)
    assert loaded.shape == made.shape
    assert description["architecture"]["encoder"] == name
    picture = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(made(picture)[0], loaded(picture)[0])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"encoder": "timm:hf-hub:somebody/something"}, "hf-hub"),
        ({"encoder": "timm:test_efficientnetty"}, "test_efficientnetty"),
        ({"encoder": EFFICIENTNET}, r"widths \(16, 24, 32, 48, 64\)"),
        ({"decoder_width": 32.0}, "32.0"),
        ({"decoder_width": -8}, "-8"),
        ({"intrinsics": "guess"}, "guess.*given, assume, off"),
        ({"attention": True}, "attention"),
    ],
)
def test_an_artifact_of_another_architecture_is_refused(tmp_path, change, names):
    save_artifact(tmp_path, network(""), {})
    path = tmp_path / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "architecture": {**description["architecture"], **change}}))
    with pytest.raises(ValueError, match=names) as caught:
        load_artifact(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_artifact_from_before_cameras_still_loads(tmp_path):
    save_artifact(tmp_path, network(""), {})
    path = tmp_path / "model.json"
    description = json.loads(path.read_text())
    del description["architecture"]["intrinsics"]
    path.write_text(json.dumps(description))
    assert load_artifact(tmp_path)[0].shape == SHAPES["tiny"]


def test_the_hyperparameter_knows_every_encoder_and_no_other():
    assert set(ENCODERS) == set(CUTS)
    assert Config(encoder="timm:anything").encoder == "timm:anything"
    with pytest.raises(ValueError, match=r"vgg16.*resnet18.*timm:NAME"):
        Config(encoder="vgg16")


def test_the_tiny_network_needs_neither_torchvision_nor_timm(pytestconfig):
    code = (
        "import sys; from surface_normals.network import *; SurfaceNormalNetwork(SHAPES['tiny']); "
        "assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    run_alone(code, pytestconfig)


def test_a_network_of_torchvision_leaves_torchs_compiler_alone_until_it_is_wanted(pytestconfig):
    code = (
        "import sys; from surface_normals.network import *; network = SurfaceNormalNetwork(SHAPES['S']); "
        "assert 'torch._dynamo' not in sys.modules and 'torch._dynamo.utils' not in sys.modules; "
        "import torch, torchvision; compiled = torch.compile(network.eval(), backend='eager'); "
        "x = torch.rand(1, 3, 64, 64); torch.testing.assert_close(compiled(x), network(x)); "
        "assert torch._dynamo.utils.__file__; boxes = torch.tensor([[0, 0.0, 0, 8, 8]]); "
        "assert torchvision.ops.roi_align(x, boxes, 2).shape == (1, 3, 2, 2)"
    )
    run_alone(code, pytestconfig)


def run_alone(code, pytestconfig):
    environment = {"PYTHONPATH": str(pytestconfig.rootpath / "container"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)


def camera(height, width, degrees=60.0):
    focal = max(height, width) / 2 / np.tan(np.radians(degrees) / 2)
    return [focal, focal, width / 2, height / 2]


@pytest.mark.parametrize("name", ["", CONVNEXT])
def test_a_network_that_is_given_cameras_looks_at_them(name):
    given, picture = network(name, "given"), torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assumed, _ = given(picture)
        unknown, _ = given(picture, torch.full((1, 4), NAN))
        spelt_out, _ = given(picture, torch.tensor([camera(64, 96)]))
        wide, _ = given(picture, torch.tensor([camera(64, 96, 90)]))
        beside, _ = given(picture.repeat(2, 1, 1, 1), torch.tensor([[NAN] * 4, camera(64, 96, 90)]))
    assert torch.equal(unknown, assumed)
    assert torch.allclose(spelt_out, assumed, atol=1e-4)
    assert (wide - assumed).abs().max() > 1e-3
    assert torch.allclose(beside, torch.cat([assumed, wide]), atol=1e-4)


@pytest.mark.parametrize("intrinsics", ["assume", "off"])
def test_other_networks_do_not(intrinsics):
    net, picture = network("", intrinsics), torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(net(picture)[0], net(picture, torch.tensor([camera(64, 96, 90)]))[0])


def test_without_rays_the_network_has_no_place_for_them():
    with_rays, without = network("", "assume"), network("", "off")
    assert [layer.in_channels - 2 for layer in with_rays.lateral] == [
        layer.in_channels for layer in without.lateral
    ]
    assert SurfaceNormalPredictor(TorchEngine(without, torch.device("cpu"))).predict(
        [np.zeros((32, 32, 3), np.uint8)]
    )
