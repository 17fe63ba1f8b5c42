"""A picture too large for the memory goes through the network in tiles, and comes out as if it had not.

Tiles alone would differ by many degrees: the network normalises by figures of the whole picture
(GroupNorm's mean and variance, the summary's mean) and sees each pixel's ray. So the tiles are told which
part of the picture they are, and those figures are found first, layer by layer, over all tiles: a pass
for each layer that has some, up to that layer. What is left of the seams, where a tile ends within
reach of a pixel, lies in margins that are cut off.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from surface_normals.network import SurfaceNormalNetwork, expected_error_degrees

CORE = 1536
"""Side of what a tile contributes, a multiple of every network's stride."""
MARGIN = 256
"""What a tile sees beyond that on each side, likewise."""


class GivenUpError(Exception):
    """Nobody waits for this picture any more."""


@dataclass(frozen=True)
class Tile:
    """Part of a picture: what is seen (the core with its margins) and the core, in the picture's pixels."""

    seen: tuple[slice, slice]
    core: tuple[slice, slice]


def tiles_of(height: int, width: int, core: int, margin: int) -> list[Tile]:
    """Tiles whose cores cover the picture without overlap."""

    def along(length: int) -> list[tuple[slice, slice]]:
        starts = range(0, length, core)
        ends = [min(start + core, length) for start in starts]
        return [
            (slice(max(0, start - margin), min(length, end + margin)), slice(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]

    return [
        Tile((rows[0], columns[0]), (rows[1], columns[1]))
        for rows in along(height)
        for columns in along(width)
    ]


@torch.inference_mode()
def run_in_tiles(
    network: SurfaceNormalNetwork,
    picture: NDArray[np.uint8],
    device: torch.device,
    *,
    core: int = CORE,
    margin: int = MARGIN,
    is_wanted: Callable[[], bool] = lambda: True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A picture (H, W, 3), H and W multiples of the stride, to normals (H, W, 3) and expected errors (H, W).

    Minutes on a CPU. Raises GivenUpError when it is not wanted any more.
    """
    height, width = picture.shape[:2]
    tiles = tiles_of(height, width, core, margin)
    normals = np.empty((height, width, 3), np.float32)
    errors = np.empty((height, width), np.float32)

    def look(tile: Tile) -> tuple[Tensor, Tensor]:
        if not is_wanted():
            raise GivenUpError
        x = (
            torch.from_numpy(np.ascontiguousarray(picture[tile.seen]))
            .to(device)
            .permute(2, 0, 1)[None]
            .float()
        )
        rows, columns = tile.seen
        found: tuple[Tensor, Tensor] = network(x / 255, part_of=(columns.start, rows.start, width, height))
        return found

    with _whole_figures(network) as figures:
        while figures.missing:
            for tile in tiles:
                figures.tile = tile
                with suppress(_FarEnough):
                    look(tile)
            figures.settle()
        for tile in tiles:
            found, concentration = look(tile)
            rows, columns = _core_of(tile, found)
            normals[tile.core] = found[0, :, rows, columns].permute(1, 2, 0).cpu().numpy()
            errors[tile.core] = expected_error_degrees(concentration[0, 0, rows, columns]).cpu().numpy()
    return normals, errors


def _core_of(tile: Tile, x: Tensor) -> tuple[slice, slice]:
    """The core's rows and columns in what the network has made of a tile (B, C, H, W), at any of its sizes."""

    def along(seen: slice, core: slice, length: int) -> slice:
        size = seen.stop - seen.start
        return slice((core.start - seen.start) * length // size, (core.stop - seen.start) * length // size)

    height, width = x.shape[-2:]
    return along(tile.seen[0], tile.core[0], height), along(tile.seen[1], tile.core[1], width)


class _FarEnough(Exception):
    """The layer whose figures this pass is for has been reached."""


class _WholeFigures:
    """Mean and variance of each layer's input over all tiles' cores, found for one layer after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.tile: Tile | None = None
        self._layers = layers
        self._known: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._sums: list[Any] = []
        self._layer: nn.Module | None = None
        self._coarsest: Tensor | None = None

    @property
    def missing(self) -> bool:
        """Whether a layer's figures are to be found yet."""
        return len(self._known) < len(self._layers)

    def settle(self) -> None:
        """The pass is over: what it has summed up are the figures of the layer that it reached."""
        count, total, squares = (sum(column) for column in zip(*self._sums, strict=True))
        mean = total / count
        assert self._layer is not None
        self._known[self._layer] = (mean.float(), (squares / count - mean * mean).float())
        self._sums = []

    def _of(self, layer: nn.Module, x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Its figures, each (groups,). Raises _FarEnough when this pass is for them; x (1, C, H, W)."""
        if layer not in self._known:
            assert self.tile is not None
            rows, columns = _core_of(self.tile, x)
            values = x[0, :, rows, columns].reshape(groups, -1).double()
            self._sums.append((values.shape[1], values.sum(dim=1), values.square().sum(dim=1)))
            self._layer = layer
            raise _FarEnough
        return self._known[layer]

    def normalise(self, layer: nn.GroupNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        """In the place of GroupNorm's own answer."""
        (x,) = inputs
        mean, variance = self._of(layer, x, layer.num_groups)
        each = layer.num_channels // layer.num_groups
        scale = layer.weight * torch.rsqrt(variance + layer.eps).repeat_interleave(each)
        shift = layer.bias - mean.repeat_interleave(each) * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def remember(self, _: nn.Module, __: Any, features: list[Tensor]) -> None:
        """The encoder's coarsest features, of which the summary is told the mean alone."""
        self._coarsest = features[-1]

    def summarise(self, layer: nn.Module, _: tuple[Tensor]) -> tuple[Tensor]:
        """In the place of a tile's mean."""
        assert self._coarsest is not None
        return (self._of(layer, self._coarsest, self._coarsest.shape[1])[0][None],)


@contextmanager
def _whole_figures(network: SurfaceNormalNetwork) -> Iterator[_WholeFigures]:
    """Within it the network takes the figures of the whole picture for those of a tile."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    figures = _WholeFigures([*norms, network.summary])
    hooks = [norm.register_forward_hook(figures.normalise) for norm in norms]
    hooks.append(network.encoder.register_forward_hook(figures.remember))
    hooks.append(network.summary.register_forward_pre_hook(figures.summarise))
    try:
        yield figures
    finally:
        for hook in hooks:
            hook.remove()
