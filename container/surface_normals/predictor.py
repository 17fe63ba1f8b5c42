"""The serving half of the model: bytes in, normal map out. Training evaluates through it too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from surface_normals import codecs
from surface_normals.answers import RESPONSE_TYPES, encode_answer
from surface_normals.artifact import load_artifact
from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees


@dataclass(frozen=True)
class NormalMap:
    """A prediction, of its picture's size."""

    normals: NDArray[np.float32]
    """(H, W, 3), unit, camera axes x right, y down, z forward."""
    expected_error_degrees: NDArray[np.float32]
    """(H, W), 0 to 90: how far the network expects each normal to be off."""


class SurfaceNormalPredictor:
    """A network on its device, behind the seam's five names."""

    request_types = (*codecs.PICTURE_FORMATS, codecs.NPY)
    response_types = RESPONSE_TYPES

    def __init__(self, network: SurfaceNormalNetwork, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device

    def decode(self, body: bytes, media_type: str) -> codecs.Picture:
        """Bytes of a JPEG, PNG, WebP or .npy picture as uint8 (H, W, 3). Raises ValueError."""
        return codecs.decode_picture(body, media_type)

    @torch.inference_mode()
    def predict(self, inputs: list[codecs.Picture]) -> list[NormalMap]:
        """Pictures uint8 (H, W, 3) of one size to their normal maps."""
        height, width = inputs[0].shape[:2]
        pictures = torch.from_numpy(np.stack(inputs)).to(self.device).permute(0, 3, 1, 2).float() / 255
        normals, concentration = self.network(self._pad(pictures))
        normals = normals[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()
        errors = expected_error_degrees(concentration)[:, 0, :height, :width].cpu().numpy()
        return [NormalMap(*pair) for pair in zip(normals, errors, strict=True)]

    def _pad(self, pictures: torch.Tensor) -> torch.Tensor:
        """Repeat the last row and column up to the next multiple of the network's stride."""
        down, right = (-side % self.network.stride for side in pictures.shape[-2:])
        return F.pad(pictures, (0, right, 0, down), mode="replicate") if down or right else pictures

    def encode(self, output: NormalMap, media_type: str) -> bytes:
        """A normal map as one of `response_types`, `media_type` having every choice spelt out."""
        return encode_answer(output.normals, output.expected_error_degrees, media_type)


def load(model_dir: Path) -> SurfaceNormalPredictor:
    """The model in `model_dir`, on its device, warmed up by one prediction.

    Raises ValueError when the folder holds no model of ours, RuntimeError when the GPU is unusable.
    """
    network, _ = load_artifact(model_dir)
    predictor = SurfaceNormalPredictor(network, pick_device())
    predictor.predict([np.zeros((64, 64, 3), dtype=np.uint8)])
    return predictor
