"""One of predict's engines, `eager`: the network as torch runs it, on the GPU or the CPU. Training measures with it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from surface_normals.artifact import load_artifact
from surface_normals.codecs import MAX_PIXELS, MAX_TILED_PIXELS
from surface_normals.description import can_tile
from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees
from surface_normals.tiling import run_in_tiles


class TorchEngine:
    """A network on its device. A picture of more than `whole_pixels` goes through it in tiles."""

    def __init__(
        self, network: SurfaceNormalNetwork, device: torch.device, *, whole_pixels: int = MAX_PIXELS
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.stride = network.stride
        self._whole_pixels = whole_pixels
        self._can_tile = can_tile(network.shape.encoder)
        self.max_pixels = MAX_TILED_PIXELS if self._can_tile else MAX_PIXELS

    def run(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (B, H, W, 3), H and W multiples of `stride`, to normals (B, H, W, 3) and expected errors
        (B, H, W) in degrees."""
        if pictures[0, :, :, 0].size > self._whole_pixels and self._can_tile:
            maps = [run_in_tiles(self.network, picture, self.device) for picture in pictures]
            return np.stack([normals for normals, _ in maps]), np.stack([errors for _, errors in maps])
        return self._run_whole(pictures)

    @torch.inference_mode()
    def _run_whole(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        x = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 255
        normals, concentration = self.network(x)
        errors = expected_error_degrees(concentration)[:, 0]
        return normals.permute(0, 2, 3, 1).cpu().numpy(), errors.cpu().numpy()


def load_engine(
    model_dir: Path,
    threads: int | None = None,
    *,
    device: str | None = None,
    whole_pixels: int = MAX_PIXELS,
) -> TorchEngine:
    """The artifact's network on `device`, None: as pick_device finds; `threads` of a CPU's compute, None: as
    torch thinks best.

    Raises ValueError when the folder holds no model of ours, RuntimeError when the GPU is unusable.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network, _ = load_artifact(model_dir)
    on = pick_device() if device is None else torch.device(device)
    return TorchEngine(network, on, whole_pixels=whole_pixels)
