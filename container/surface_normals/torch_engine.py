"""Two of predict's engines, on the GPU or the CPU: `eager`, the network as torch runs it, with which training
measures, too; and `bfloat16`, the same in autocast, as GPUs train it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from surface_normals.artifact import load_artifact
from surface_normals.codecs import MAX_PIXELS, MAX_TILED_PIXELS, TILE_BYTES, TILED_BYTES_PER_PIXEL
from surface_normals.description import can_tile
from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees
from surface_normals.tiling import run_in_tiles

BYTES_PER_PIXEL = 650
"""On a CPU, at the peak of a picture's way through the network: 230 (`tiny`) to 640 (`L`) were measured."""
BFLOAT16_DEGREES = 0.3
"""A network whose normals differ by more on average, rounded so, is not served so."""

_log = logging.getLogger(__name__)


class TorchEngine:
    """A network on its device. A picture of more than `whole_pixels` goes through it in tiles."""

    lanes = 1

    def __init__(
        self, network: SurfaceNormalNetwork, device: torch.device, *, whole_pixels: int = MAX_PIXELS
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.bfloat16 = False
        """Whether it computes in that type, where torch's autocast does. Its answers are float32 all the same."""
        self.stride = network.stride
        self._whole_pixels = whole_pixels
        self._can_tile = can_tile(network.shape.encoder)
        self.max_pixels = MAX_TILED_PIXELS if self._can_tile else MAX_PIXELS

    def peak_bytes(self, height: int, width: int) -> int:
        """What one picture takes of the host's memory; 0 on a GPU, which says itself when it has no room."""
        if self.device.type != "cpu":
            return 0
        if height * width > self._whole_pixels and self._can_tile:
            return TILED_BYTES_PER_PIXEL * height * width + TILE_BYTES
        return BYTES_PER_PIXEL * height * width

    def run(
        self, pictures: NDArray[np.uint8], is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (B, H, W, 3), H and W multiples of `stride`, to normals (B, H, W, 3) and expected errors
        (B, H, W) in degrees."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            if pictures[0, :, :, 0].size > self._whole_pixels and self._can_tile:
                maps = [
                    run_in_tiles(self.network, picture, self.device, is_wanted=is_wanted)
                    for picture in pictures
                ]
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
    bfloat16: bool = False,
) -> TorchEngine:
    """The artifact's network on `device`, None: as pick_device finds; `threads` of a CPU's compute, None: as
    torch thinks best.

    Raises ValueError when the folder holds no model of ours, RuntimeError when the GPU is unusable, and what
    round_to_bfloat16 raises.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network, _ = load_artifact(model_dir)
    on = pick_device() if device is None else torch.device(device)
    engine = TorchEngine(network, on, whole_pixels=whole_pixels)
    if bfloat16:
        round_to_bfloat16(engine)
    return engine


def round_to_bfloat16(engine: TorchEngine) -> None:
    """Let it compute in bfloat16.

    Raises RuntimeError where that would be slower than float32, ValueError for a network that is not made for it.
    """
    if not _computes_bfloat16(engine.device):
        raise RuntimeError(
            "ENGINE=bfloat16, but this processor has no such arithmetic: ENGINE=eager is faster"
        )
    picture = _shaded_boxes(8 * engine.stride, 10 * engine.stride)[None]
    exact, _ = engine.run(picture)
    engine.bfloat16 = True
    rounded, _ = engine.run(picture)
    difference = _mean_angle_degrees(exact, rounded)
    _log.info("bfloat16: the normals of a test picture are %.2f degrees off on average", difference)
    if not difference <= BFLOAT16_DEGREES:
        raise ValueError(
            f"ENGINE=bfloat16 turns this model's normals by {difference:.2f} degrees on average, of which "
            f"{BFLOAT16_DEGREES} are allowed: use ENGINE=eager"
        )


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))


def _shaded_boxes(height: int, width: int) -> NDArray[np.uint8]:
    """Six boxes before a wall on a floor, (H, W, 3): to a network more like its pictures than noise or plain colours.

    Of what it knows nothing of it is unsure, and rounding turns that more.
    """
    random = np.random.default_rng(0)
    down, right = np.mgrid[:height, :width] / height
    floor = np.multiply.outer(0.6 + 0.4 * down, (120, 100, 80))
    picture = np.where(down[..., None] > 0.6, floor, np.multiply.outer(1 - 0.3 * right, (170, 175, 185)))
    for _ in range(6):
        top, left = random.integers(0, height * 2 // 3), random.integers(0, width * 2 // 3)
        box = picture[top : top + height // 4, left : left + width // 5]
        box[:] = np.multiply.outer(
            np.ones(box.shape[0]),
            np.multiply.outer(np.linspace(0.7, 1, box.shape[1]), random.integers(60, 220, 3)),
        )
    drawn: NDArray[np.uint8] = picture.astype(np.uint8)
    return drawn


def _mean_angle_degrees(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between normals (..., 3): atan2 of sine and cosine, which is exact at small angles too."""
    sine = np.linalg.norm(np.cross(one, other), axis=-1)
    return float(np.degrees(np.arctan2(sine, np.sum(one * other, axis=-1))).mean())
