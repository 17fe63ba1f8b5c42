"""Two of predict's engines, on the GPU or the CPU: `eager`, the network as torch runs it, with which training
measures, too; and `bfloat16`, the same where its convolutions are rounded to that type.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from surface_normals.artifact import load_artifact
from surface_normals.codecs import MAX_PIXELS, MAX_TILED_PIXELS, TILE_BYTES, TILED_BYTES_PER_PIXEL
from surface_normals.description import can_tile
from surface_normals.device import pick_device
from surface_normals.encoders import Encoder
from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees
from surface_normals.tiling import run_in_tiles

BYTES_PER_PIXEL = 650
"""On a CPU, at the peak of a picture's way through the network: 230 (`tiny`) to 640 (`L`) were measured."""
BFLOAT16_DEGREES = 0.3
"""A network whose normals differ by more on average, its encoder rounded so, is not served so."""

_log = logging.getLogger(__name__)


class TorchEngine:
    """A network on its device. A picture of more than `whole_pixels` goes through it in tiles."""

    lanes = 1

    def __init__(
        self, network: SurfaceNormalNetwork, device: torch.device, *, whole_pixels: int = MAX_PIXELS
    ) -> None:
        self.network = network.to(device).eval()
        self.device = device
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


class InBfloat16(Encoder):
    """An encoder whose arithmetic is rounded to bfloat16, between a picture and features in float32.

    The decoder stays exact: it is a sixth of the work, and half of what rounding all would change.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.widths, self.strides = encoder.widths, encoder.strides
        self.encoder = encoder

    def forward(self, x: Tensor) -> list[Tensor]:
        """As the encoder's own."""
        with torch.autocast(x.device.type, torch.bfloat16):
            features: list[Tensor] = self.encoder(x)
        return [each.float() for each in features]


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
    """Let its encoder compute in bfloat16.

    Raises RuntimeError where that would be slower than float32, ValueError for a network that is not made for it.
    """
    if not _computes_bfloat16(engine.device):
        raise RuntimeError(
            "ENGINE=bfloat16, but this processor has no such arithmetic: ENGINE=eager is faster"
        )
    picture = _soft_picture(8 * engine.stride, 10 * engine.stride)[None]
    exact, _ = engine.run(picture)
    engine.network.encoder = InBfloat16(engine.network.encoder)
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


def _soft_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Colours at random that change softly, (H, W, 3): what a picture is to a network more than noise is."""
    colours = torch.from_numpy(np.random.default_rng(0).random((1, 3, 8, 10), np.float32))
    soft = functional.interpolate(colours, size=(height, width), mode="bilinear")
    picture: NDArray[np.uint8] = (255 * soft[0].permute(1, 2, 0)).byte().numpy()
    return picture


def _mean_angle_degrees(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between normals (..., 3): atan2 of sine and cosine, which is exact at small angles too."""
    sine = np.linalg.norm(np.cross(one, other), axis=-1)
    return float(np.degrees(np.arctan2(sine, np.sum(one * other, axis=-1))).mean())
