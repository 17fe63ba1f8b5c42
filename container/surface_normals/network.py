"""The network: a picture to a unit normal and a concentration for every pixel.

An encoder gives features at 1/2, 1/4, ... of the picture's size (where it begins at 1/4, one
convolution of the picture stands for 1/2). A light feature pyramid adds them up from the coarsest
to the finest; GroupNorm throughout, as batches are small. The result is enlarged bilinearly and
normalised. Every level also sees the direction of its pixels' rays, as in DSINE (CVPR 2024), under
the picture's own camera or an assumed field of view of 60 degrees, and a summary of the whole
picture: light and camera concern all of it.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surface_normals.description import IMAGENET_MEAN, IMAGENET_STD
from surface_normals.encoders import build_encoder, conv_norm_relu

ASSUMED_FIELD_OF_VIEW_DEGREES = 60.0
MIN_CONCENTRATION = 0.01
DETAIL_WIDTH = 32
FINEST_WIDTH = 64
"""At most so many channels at half size: a convolution there costs four times what it costs a level above."""
INTRINSICS = ("given", "assume", "off")


@dataclass(frozen=True)
class Shape:
    """What decides the network's parameters; stored beside the weights."""

    encoder: str
    encoder_widths: tuple[int, ...]
    """Channels at the encoder's sizes, fine to coarse; empty stands for what the encoder has."""
    decoder_width: int
    """Channels of the pyramid's levels, a multiple of 8; of the finest at most FINEST_WIDTH."""
    intrinsics: str = "assume"
    """Whose rays the levels see: of the camera that is `given`, of the assumed one, or none (`off`)."""


SHAPES = {
    "tiny": Shape("plain", (16, 32, 64, 96, 128), 32),
    "S": Shape("resnet18", (64, 64, 128, 256, 512), 128),
    "M": Shape("convnext_tiny", (96, 192, 384, 768), 128),
    "L": Shape("convnext_base", (128, 256, 512, 1024), 192),
}


def shape_of(size: str, encoder: str = "", intrinsics: str = "assume") -> Shape:
    """The shape of a size, with another encoder than its own where one is named."""
    shape = replace(SHAPES[size], intrinsics=intrinsics)
    if encoder in ("", shape.encoder):
        return shape
    return replace(shape, encoder=encoder, encoder_widths=())


class SurfaceNormalNetwork(nn.Module):
    """Picture (B, 3, H, W), RGB in 0..1, to normals (B, 3, H, W) in `rdf` and concentration (B, 1, H, W).

    H and W must be multiples of `stride`. Both results are float32 whatever the autocast: bfloat16's
    steps near a cosine of 1 are as coarse as 5 degrees. Concentration is at least MIN_CONCENTRATION.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape.intrinsics not in INTRINSICS:
            raise ValueError(f"intrinsics {shape.intrinsics!r}; there are {', '.join(INTRINSICS)}")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.encoder = build_encoder(shape.encoder, shape.encoder_widths)
        self.stride = self.encoder.strides[-1]
        self.shape = replace(shape, encoder_widths=self.encoder.widths)
        widths, width = self.encoder.widths, shape.decoder_width
        self.detail: nn.Sequential | None = None
        if self.encoder.strides[0] > 2:
            self.detail = conv_norm_relu(3, DETAIL_WIDTH, stride=2)
            widths = (DETAIL_WIDTH, *widths)
        rays = 0 if shape.intrinsics == "off" else 2
        finest = min(width, FINEST_WIDTH)
        own = (finest, *(width for _ in widths[1:]))  # of each level, fine to coarse as the widths are
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels + rays, out, kernel_size=1) for channels, out in zip(widths, own, strict=True)
        )
        self.summary = nn.Linear(widths[-1], width)
        # Coarse to fine; each hands on as many channels as the next finer level has.
        self.smooth = nn.ModuleList(map(conv_norm_relu, own[-2::-1], (*own[-3::-1], finest)))
        self.head = nn.Conv2d(finest + rays, 4, kernel_size=3, padding=1)

    def forward(
        self,
        picture: Tensor,
        intrinsics: Tensor | None = None,
        *,
        part_of: tuple[int, int, int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`intrinsics` (B, 4): fx, fy, cx, cy in the picture's pixels, a row of NaN where the camera is unknown.

        Only a network with intrinsics=given looks at them. `part_of` says that the picture is one of a larger
        one, whose camera is the assumed one: its left and top in that one, and that one's width and height.
        """
        size = picture.shape[-2:]
        picture = (picture - self.mean) / self.std
        features = self.encoder(picture)
        if self.detail is not None:
            features = [self.detail(picture), *features]
        if self.shape.intrinsics != "given":
            intrinsics = None
        if part_of is not None:
            intrinsics = assumed_intrinsics(*part_of).to(picture).expand(picture.shape[0], 4)

        def seen(x: Tensor) -> Tensor:
            return x if self.shape.intrinsics == "off" else with_rays(x, size, intrinsics)

        levels = [lateral(seen(x)) for lateral, x in zip(self.lateral, features, strict=True)]
        x = levels[-1] + self.summary(features[-1].mean(dim=(2, 3)))[:, :, None, None]
        for finer, smooth in zip(reversed(levels[:-1]), self.smooth, strict=True):
            x = smooth(enlarge(x, finer.shape[-2:]) + finer)
        x = enlarge(self.head(seen(x)).float(), size)
        return unit(x[:, :3]), F.softplus(x[:, 3:]) + MIN_CONCENTRATION


def enlarge(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def unit(x: Tensor) -> Tensor:
    """Vectors along dimension 1, (B, 3, H, W), brought to length 1."""
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-12)


def assumed_intrinsics(left: int, top: int, width: int, height: int) -> Tensor:
    """Of the assumed camera of a picture of this size, (4,), in pixels counted from (left, top)."""
    focal = max(height, width) / 2 / math.tan(math.radians(ASSUMED_FIELD_OF_VIEW_DEGREES / 2))
    return torch.tensor([focal, focal, width / 2 - left, height / 2 - top])


def with_rays(x: Tensor, picture_size: torch.Size, intrinsics: Tensor | None) -> Tensor:
    """(B, C, H, W) with two channels more: x/z and y/z of each pixel's ray.

    `intrinsics` (B, 4) are in pixels of a picture of `picture_size`; without them, and in their rows
    of NaN, the camera is the assumed one.
    """
    height, width = x.shape[-2:]
    focal = max(height, width) / 2 / math.tan(math.radians(ASSUMED_FIELD_OF_VIEW_DEGREES / 2))
    u = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5 - width / 2) / focal
    v = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5 - height / 2) / focal
    rays = torch.stack([u.expand(height, width), v[:, None].expand(height, width)])
    rays = rays.expand(x.shape[0], 2, height, width)
    if intrinsics is not None:
        fx, fy, cx, cy = intrinsics.float()[:, :, None, None].unbind(dim=1)
        across = (torch.arange(width, device=x.device) + 0.5) * (picture_size[1] / width)
        down = (torch.arange(height, device=x.device) + 0.5) * (picture_size[0] / height)
        own_u = ((across - cx) / fx).expand(-1, height, width)
        own_v = ((down[:, None] - cy) / fy).expand(-1, height, width)
        own = torch.stack([own_u, own_v], dim=1).to(x.dtype)
        rays = torch.where(own.isnan(), rays, own)
    # Laid out like the features: joined with others, all of them would have to be copied.
    return torch.cat([x, rays.contiguous(memory_format=torch.channels_last)], dim=1)


def expected_error_degrees(concentration: Tensor) -> Tensor:
    """Mean angle, in degrees, of the Angular von Mises-Fisher density of this concentration.

    2k / (k^2 + 1) + pi exp(-k pi) / (1 + exp(-k pi)) radians: 90 degrees at k = 0, 2/k for large k
    (Bae, Budvytis, Cipolla: Estimating and Exploiting the Aleatoric Uncertainty, ICCV 2021).
    """
    k = concentration
    # exp(-k pi) / (1 + exp(-k pi)) is the logistic function of -k pi.
    return torch.rad2deg(2 * k / (k * k + 1) + math.pi * torch.sigmoid(-k * math.pi))
