"""The network: a picture to a unit normal and a concentration for every pixel.

An encoder gives features at 1/2, 1/4, ... of the picture's size. A light feature pyramid adds them up
from the coarsest to the finest; GroupNorm throughout, as batches are small. The result is enlarged
bilinearly and normalised. Every level also sees the direction of its pixels' rays, as in DSINE
(CVPR 2024), under an assumed field of view of 60 degrees, and a summary of the whole picture: light
and camera concern all of it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ASSUMED_FIELD_OF_VIEW_DEGREES = 60.0
MIN_CONCENTRATION = 0.01


@dataclass(frozen=True)
class Shape:
    """What decides the network's parameters; stored beside the weights."""

    encoder: str
    encoder_widths: tuple[int, ...]
    """Channels at 1/2, 1/4, ... of the picture's size."""
    decoder_width: int
    """Channels of every level of the pyramid, a multiple of 8."""


SHAPES = {
    "tiny": Shape("plain", (16, 32, 64, 96, 128), 32),
    "S": Shape("resnet18", (64, 64, 128, 256, 512), 128),
}


class SurfaceNormalNetwork(nn.Module):
    """Picture (B, 3, H, W), RGB in 0..1, to normals (B, 3, H, W) in `rdf` and concentration (B, 1, H, W).

    H and W must be multiples of `stride`. Both results are float32 whatever the autocast: bfloat16's
    steps near a cosine of 1 are as coarse as 5 degrees. Concentration is at least MIN_CONCENTRATION.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths, width = shape.encoder_widths, shape.decoder_width
        self.stride = 2 ** len(widths)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.encoder = ENCODERS[shape.encoder](widths)
        self.lateral = nn.ModuleList(nn.Conv2d(channels + 2, width, kernel_size=1) for channels in widths)
        self.summary = nn.Linear(widths[-1], width)
        self.smooth = nn.ModuleList(conv_norm_relu(width, width) for _ in widths[:-1])
        self.head = nn.Conv2d(width + 2, 4, kernel_size=3, padding=1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        size = picture.shape[-2:]
        features = self.encoder((picture - self.mean) / self.std)
        levels = [lateral(with_rays(x)) for lateral, x in zip(self.lateral, features, strict=True)]
        x = levels[-1] + self.summary(features[-1].mean(dim=(2, 3)))[:, :, None, None]
        for finer, smooth in zip(reversed(levels[:-1]), self.smooth, strict=True):
            x = smooth(enlarge(x, finer.shape[-2:]) + finer)
        x = enlarge(self.head(with_rays(x)).float(), size)
        return unit(x[:, :3]), F.softplus(x[:, 3:]) + MIN_CONCENTRATION


class PlainEncoder(nn.Module):
    """Two convolutions a level from random start: small enough to learn on two processor cores."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
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


class ResNetEncoder(nn.Module):
    """torchvision's resnet18 without its classifier."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        from torchvision.models import resnet18  # seconds and 165 MB that the tiny network can do without

        self.body = resnet18(weights=None)
        self.body.fc = nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        body = self.body
        features = [body.relu(body.bn1(body.conv1(x)))]
        x = body.maxpool(features[0])
        for level in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = level(x)
            features.append(x)
        return features


ENCODERS: dict[str, type[PlainEncoder] | type[ResNetEncoder]] = {
    "plain": PlainEncoder,
    "resnet18": ResNetEncoder,
}


def conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, channels_out),
        nn.ReLU(inplace=True),
    )


def enlarge(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def unit(x: Tensor) -> Tensor:
    """Vectors along dimension 1, (B, 3, H, W), brought to length 1."""
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-12)


def with_rays(x: Tensor) -> Tensor:
    """(B, C, H, W) with two channels more: x/z and y/z of each pixel's ray."""
    height, width = x.shape[-2:]
    focal = max(height, width) / 2 / math.tan(math.radians(ASSUMED_FIELD_OF_VIEW_DEGREES / 2))
    u = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5 - width / 2) / focal
    v = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5 - height / 2) / focal
    rays = torch.stack([u.expand(height, width), v[:, None].expand(height, width)])
    return torch.cat([x, rays.expand(x.shape[0], 2, height, width)], dim=1)


def expected_error_degrees(concentration: Tensor) -> Tensor:
    """Mean angle, in degrees, of the Angular von Mises-Fisher density of this concentration.

    2k / (k^2 + 1) + pi exp(-k pi) / (1 + exp(-k pi)) radians: 90 degrees at k = 0, 2/k for large k
    (Bae, Budvytis, Cipolla: Estimating and Exploiting the Aleatoric Uncertainty, ICCV 2021).
    """
    k = concentration
    # exp(-k pi) / (1 + exp(-k pi)) is the logistic function of -k pi.
    return torch.rad2deg(2 * k / (k * k + 1) + math.pi * torch.sigmoid(-k * math.pi))
