"""From vectors as files hold them to the truth of a step: unit normals in the camera's axes.

Files hold three integers a pixel, or float16. They stay that until here: a batch is half
as large on its way, and the arithmetic happens once for the whole batch, on the device that trains.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_LENGTH = 0.1
"""A shorter vector is no direction but a rounded zero."""


def components(vectors: Tensor) -> Tensor:
    """Numbers as stored as float32: those of a picture, 0 to its largest, stand for -1 to 1."""
    if vectors.is_floating_point():
        return vectors.float()
    return vectors.float().mul_(2 / torch.iinfo(vectors.dtype).max).sub_(1)


def unit_normals(vectors: Tensor, valid: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Normals of unit length where they are valid and zero elsewhere, and where that is.

    vectors  (..., H, W, 3) as stored: uint8, uint16, or a float of any length
    valid    bool (..., H, W), false where the file declares that there is no truth
    turn     float32 (..., 3, 3), brings a vector, as a row, to the axes that are wanted
    returns  float32 (..., 3, H, W) and bool (..., H, W)
    """
    # Plane by plane, and in place: three times as fast on a CPU as pixel by pixel.
    planes = components(vectors).movedim(-1, -3).clone(memory_format=torch.contiguous_format)
    x, y, z = planes.unbind(-3)
    length = (x * x + y * y + z * z).sqrt_()
    valid = valid & (length > MIN_LENGTH) & (length < torch.inf)
    planes.div_(length.unsqueeze(-3)).masked_fill_(~valid.unsqueeze(-3), 0)
    return (turn.mT @ planes.flatten(-2)).view_as(planes), valid


def unit_normals_of(
    vectors: NDArray[np.generic], valid: NDArray[np.bool_], turn: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The same of one picture's arrays; normals (H, W, 3)."""
    tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in (vectors, valid, turn))
    normals, found = unit_normals(*tensors)
    return normals.permute(1, 2, 0).contiguous().numpy(), found.numpy()
