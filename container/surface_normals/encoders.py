"""First half of the network: a picture to features at 1/2 or 1/4, then ever halved sizes, of the encoder one names.

`plain` is our own. The others are torchvision's, or any of the timm library's as `timm:NAME`; both
are imported only when they are asked for, as they cost seconds, and start at random: where their
weights come from is the training's business, and nothing is ever downloaded.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surface_normals.description import IMAGENET_MEAN, IMAGENET_STD

TIMM = "timm:"
DROPPED_PATHS = 0.1
"""Largest share of a ConvNeXt's blocks that a training step leaves out; torchvision's 0.5 is for weeks of ImageNet."""

CUTS = {
    "resnet18": (),
    "resnet50": (),
    "mobilenet_v3_large": (1, 3, 6, 12, 16),
    "convnext_tiny": (1, 3, 5, 7),
    "convnext_small": (1, 3, 5, 7),
    "convnext_base": (1, 3, 5, 7),
}
"""torchvision's encoders; where they are one sequence, the places of its layers that end a size."""


class Encoder(nn.Module):
    """Picture (B, 3, H, W), normalised, to features (B, widths[i], H / strides[i], W / strides[i]).

    H and W are multiples of the last stride. `body` is the library's own module, so that its
    state dict has the names of published weights; without one it is the encoder itself.
    """

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    weights_file: str | None = None
    """How its publisher names the file of ImageNet weights; None where nobody does."""

    def forward(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError


def build_encoder(name: str, widths: tuple[int, ...] = ()) -> Encoder:
    """The encoder of this name, at random. `widths` must be its own, if they are given; `plain` is made with them.

    Raises ValueError when there is no such encoder, or it is another one than `widths` tells.
    """
    if name == "plain":
        return PlainEncoder(widths)
    if name.startswith(TIMM):
        encoder = build_timm(name.removeprefix(TIMM))
    elif name in CUTS:
        encoder = ResNetEncoder(name) if name.startswith("resnet") else SequenceEncoder(name)
    else:
        raise ValueError(f"no encoder {name!r}; there are {', '.join(CUTS)}, and {TIMM}NAME")
    if widths and widths != encoder.widths:
        raise ValueError(f"encoder {name} has widths {encoder.widths} here, not {widths}")
    return encoder


class PlainEncoder(Encoder):
    """Two convolutions a level from random start: small enough to learn on two processor cores."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths, self.strides = widths, tuple(2 ** (i + 1) for i in range(len(widths)))
        before = (3, *widths[:-1])
        self.levels = nn.ModuleList(
            nn.Sequential(conv_norm_relu(a, b, stride=2), conv_norm_relu(b, b))
            for a, b in zip(before, widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class ResNetEncoder(Encoder):
    """A ResNet of torchvision without its classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body, self.weights_file = (
            torchvision_models().get_model(name, weights=None),
            torchvision_file(name),
        )
        deepest = self.body.fc.in_features
        self.body.fc = nn.Identity()
        self.widths, self.strides = (64, *(deepest // 2**i for i in (3, 2, 1, 0))), (2, 4, 8, 16, 32)

    def forward(self, x: Tensor) -> list[Tensor]:
        body = self.body
        features = [body.relu(body.bn1(body.conv1(x)))]
        x = body.maxpool(features[0])
        for level in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = level(x)
            features.append(x)
        return features


class SequenceEncoder(Encoder):
    """A network of torchvision whose `features` are one sequence, without its classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        options = {"stochastic_depth_prob": DROPPED_PATHS} if name.startswith("convnext") else {}
        self.body = torchvision_models().get_model(name, weights=None, **options)
        self.weights_file = torchvision_file(name)
        self.body.classifier = nn.Identity()
        self.cuts = CUTS[name]
        self.strides = tuple(2 ** (i + 6 - len(self.cuts)) for i in range(len(self.cuts)))
        with torch.no_grad():
            self.body.eval()
            self.widths = tuple(x.shape[1] for x in self(torch.zeros(1, 3, 32, 32)))
            self.body.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for place, layer in enumerate(self.body.features.children()):
            x = layer(x)
            if place in self.cuts:
                features.append(x)
        return features


def torchvision_file(name: str) -> str:
    """The file name of its default weights, such as resnet18-f37072fd.pth: the digits begin the file's SHA-256."""
    url: str = torchvision_models().get_model_weights(name).DEFAULT.url
    return url.rpartition("/")[2]


def torchvision_models() -> ModuleType:
    """torchvision.models, without torch's compiler, which takes longer to load than all the rest of torchvision.

    An operation that nothing here calls wants one function of it: at its import it finds a module with that alone.
    """
    compiler = "torch._dynamo.utils"
    if "torchvision" in sys.modules or compiler in sys.modules:
        return importlib.import_module("torchvision.models")
    stand_in = ModuleType(compiler)
    stand_in.is_compile_supported = lambda device_type: False  # type: ignore[attr-defined]
    sys.modules[compiler] = stand_in
    try:
        return importlib.import_module("torchvision.models")
    finally:
        del sys.modules[compiler]


def build_timm(name: str) -> Encoder:
    """A network of timm: its own levels, or a pyramid made of the one size that a vision transformer has."""
    torchvision_models()  # timm loads it otherwise
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:5])
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}" + (f"; near: {near}" if near else "")
        )
    try:
        body: Any = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # takes no such argument: a convolutional network, which has any picture size anyway
        body = timm.create_model(name, pretrained=False, num_classes=0)
    if not hasattr(body, "forward_intermediates"):
        raise ValueError(f"timm's {name} does not give features between its layers; choose another encoder")
    levels = [(level["num_chs"], level["reduction"]) for level in body.feature_info]
    is_transformer = len({stride for _, stride in levels}) == 1
    encoder = TokenEncoder(body, *levels[0]) if is_transformer else LevelEncoder(body, levels)
    encoder.weights_file = f"{name}.safetensors"
    return encoder


class LevelEncoder(Encoder):
    """A network of timm with features of several sizes: EfficientNet, ConvNeXt V2, ..."""

    def __init__(self, body: Any, levels: list[tuple[int, int]]) -> None:
        super().__init__()
        body.prune_intermediate_layers(list(range(len(levels))), prune_head=True)
        self.body, self.renormalise = body, Renormalise(body.pretrained_cfg)
        self.widths, self.strides = zip(*levels, strict=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.body.forward_intermediates(self.renormalise(x), intermediates_only=True)
        return features


class TokenEncoder(Encoder):
    """A vision transformer of timm (DINOv2 and its kind), and a neck that makes four sizes of its one.

    Patches of 14 pixels would leave a rest at every size that others can use: the picture is resized
    so that there is one patch for every 16 pixels of it.
    """

    def __init__(self, body: Any, width: int, patch: int) -> None:
        super().__init__()
        depth = len(body.feature_info)
        self.blocks = [max(0, depth * quarter // 4 - 1) for quarter in (1, 2, 3, 4)]
        body.prune_intermediate_layers(self.blocks, prune_head=True)
        self.body, self.renormalise = body, Renormalise(body.pretrained_cfg)
        self.patch, self.stride = patch, 2 ** (patch - 1).bit_length()
        self.widths = (width // 4, width // 2, width, width)
        self.strides = (self.stride // 4, self.stride // 2, self.stride, self.stride * 2)
        self.neck = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, self.widths[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(width, self.widths[1], kernel_size=2, stride=2),
                nn.Conv2d(width, width, kernel_size=1),
                nn.Conv2d(width, width, kernel_size=2, stride=2),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.renormalise(x)
        if self.patch != self.stride:
            size = [side // self.stride * self.patch for side in x.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        tokens = self.body.forward_intermediates(x, indices=self.blocks, norm=True, intermediates_only=True)
        return [layer(features) for layer, features in zip(self.neck, tokens, strict=True)]


class Renormalise(nn.Module):
    """A picture normalised for ImageNet's usual mean and deviation, for those that a model of timm was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, pretrained_cfg: dict[str, Any]) -> None:
        super().__init__()
        own_mean, own_std = (torch.tensor(pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.ReLU(inplace=True),
    )
