"""The network: a picture to a unit normal and a concentration for every pixel.

An encoder gives features at several scales; a light U-shaped decoder with GroupNorm (batches are
small) brings them back to half the picture's size; that is enlarged bilinearly and normalised.
Every level of the decoder also sees the direction of its pixels' rays, as in DSINE (CVPR 2024),
under an assumed field of view of 60 degrees.
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
    decoder_widths: tuple[int, ...]
    """Channels of the decoder's levels, coarsest first; one fewer than the encoder's."""


SHAPES = {
    "tiny": Shape("plain", (24, 48, 80, 112), (80, 48, 32)),
    "S": Shape("resnet18", (64, 64, 128, 256, 512), (256, 128, 96, 64)),
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
        self.stride = 2 ** len(shape.encoder_widths)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.encoder = ENCODERS[shape.encoder](shape.encoder_widths)
        below = shape.encoder_widths[-1]
        self.decoder = nn.ModuleList()
        for skip, width in zip(reversed(shape.encoder_widths[:-1]), shape.decoder_widths, strict=True):
            self.decoder.append(DecoderLevel(below, skip, width))
            below = width
        self.head = nn.Conv2d(below + 2, 4, kernel_size=3, padding=1)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        height, width = picture.shape[-2:]
        features = self.encoder((picture - self.mean) / self.std)
        x = features[-1]
        for level, skip in zip(self.decoder, reversed(features[:-1]), strict=True):
            x = level(x, skip)
        x = self.head(with_rays(x)).float()
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        normals = F.normalize(x[:, :3], dim=1, eps=1e-6)
        return normals, F.softplus(x[:, 3:]) + MIN_CONCENTRATION


class DecoderLevel(nn.Module):
    """Doubles the size: enlarge, put the encoder's features and the rays beside, two convolutions."""

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(below + skip + 2, width)
        self.second = conv_norm_relu(width, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = self.second(self.first(with_rays(torch.cat([x, skip], dim=1))))
        return x


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
