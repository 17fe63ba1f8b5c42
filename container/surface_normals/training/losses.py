"""What training minimises, and the angle it is made of. All in float32, whatever the autocast."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE_IS_RIGHT = (
    "loss=angmf is the logarithm of a density: it falls below 0 when the network is sure and right; "
    "train_mean_angular_error, in degrees, says how good it is"
)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians between unit vectors along dimension 1: (B, 3, ...) to (B, ...).

    atan2(|a x b|, a . b), not acos: its gradient is finite everywhere, so no pixel has to be
    dropped, and it is exact near 0 and 180 degrees.
    """
    a, b = a.float(), b.float()
    sine = torch.sqrt(torch.linalg.cross(a, b, dim=1).square().sum(dim=1) + 1e-12)
    return torch.atan2(sine, (a * b).sum(dim=1))


def normal_loss(
    name: str, normals: Tensor, concentration: Tensor, truth: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss called `name`, and the mean angle in radians.

    normals, truth (B, 3, H, W) unit; concentration (B, 1, H, W) > 0; valid (B, H, W) bool. Pixels of
    the whole batch are pooled, as the metrics pool them. Without any valid pixel both are 0.

    `angmf`    mean negative log-likelihood of the Angular von Mises-Fisher density, see there
    `angular`  mean angle in radians
    `cosine`   mean of 1 - cosine of the angle

    With the last two the concentration learns from that density all the same, at the angle as it
    is: it neither adds to their value nor pulls at the normals.
    """
    weight = valid.float() / valid.sum().clamp(min=1)
    # Zero vectors stand where there is no truth; any unit vector there keeps the gradient finite.
    truth = torch.where(valid[:, None], truth, normals.detach())
    angle = angle_between(normals, truth)
    if name == "angmf":
        loss = angular_mf(angle, concentration[:, 0])
    else:
        likelihood = angular_mf(angle.detach(), concentration[:, 0])
        error = angle if name == "angular" else 1 - (normals.float() * truth).sum(dim=1)
        loss = error + (likelihood - likelihood.detach())
    return (loss * weight).sum(), (angle.detach() * weight).sum()


def angular_mf(angle: Tensor, concentration: Tensor) -> Tensor:
    """Negative log-likelihood of an angle in radians under the Angular von Mises-Fisher density, up to a constant.

        -ln(k^2 + 1) + k angle + ln(1 + exp(-k pi))

    (Bae, Budvytis, Cipolla, ICCV 2021.)
    """
    k = concentration.float()
    return -torch.log(k.square() + 1) + k * angle + F.softplus(-k * math.pi)
