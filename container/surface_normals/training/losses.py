"""What training minimises, and the angle it is made of. All in float32, whatever the autocast."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians between unit vectors along dimension 1: (B, 3, ...) to (B, ...).

    atan2(|a x b|, a . b), not acos: its gradient is finite everywhere, so no pixel has to be
    dropped, and it is exact near 0 and 180 degrees.
    """
    a, b = a.float(), b.float()
    sine = torch.sqrt(torch.linalg.cross(a, b, dim=1).square().sum(dim=1) + 1e-12)
    return torch.atan2(sine, (a * b).sum(dim=1))


def angular_mf_loss(
    normals: Tensor, concentration: Tensor, truth: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean negative log-likelihood of the Angular von Mises-Fisher density, and the mean angle in radians.

    normals, truth (B, 3, H, W) unit; concentration (B, 1, H, W) > 0; valid (B, H, W) bool. Pixels of
    the whole batch are pooled, as the metrics pool them. Without any valid pixel both are 0.

        -ln(k^2 + 1) + k angle + ln(1 + exp(-k pi))

    (Bae, Budvytis, Cipolla, ICCV 2021.) It falls below zero when the model is sure and right: a
    density may exceed 1.
    """
    weight = valid.float() / valid.sum().clamp(min=1)
    # Zero vectors stand where there is no truth; any unit vector there keeps the gradient finite.
    truth = torch.where(valid[:, None], truth, normals.detach())
    angle = angle_between(normals, truth)
    k = concentration[:, 0].float()
    loss = -torch.log(k.square() + 1) + k * angle + F.softplus(-k * math.pi)
    return (loss * weight).sum(), (angle.detach() * weight).sum()
