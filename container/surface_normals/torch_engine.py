"""One of predict's engines, `eager`: the network as torch runs it, on the GPU or the CPU. Training measures with it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from surface_normals.artifact import load_artifact
from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees


class TorchEngine:
    """A network on its device."""

    def __init__(self, network: SurfaceNormalNetwork, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.stride = network.stride

    @torch.inference_mode()
    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (B, H, W, 3), H and W multiples of `stride`, to normals (B, H, W, 3) and expected errors
        (B, H, W) in degrees."""
        x = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 255
        normals, concentration = self.network(x)
        errors = expected_error_degrees(concentration)[:, 0]
        return normals.permute(0, 2, 3, 1).cpu().numpy(), errors.cpu().numpy()


def load_engine(model_dir: Path, threads: int | None = None) -> TorchEngine:
    """The artifact's network on its device; `threads` of a CPU's compute, None: as torch thinks best.

    Raises ValueError when the folder holds no model of ours, RuntimeError when the GPU is unusable.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network, _ = load_artifact(model_dir)
    return TorchEngine(network, pick_device())
