"""Part of the evaluation: channels that are zero wherever one looks, and so can learn nothing more."""

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish)
"""Those that are flat at zero. GELU and SiLU have a slope nearly everywhere."""
DEAD_BELOW = 1e-6


class ActivationWatch:
    """While it is entered, notes each activation layer's largest output, channel by channel."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = {
            name: layer for name, layer in network.named_modules() if isinstance(layer, ACTIVATIONS)
        }
        self._largest: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for name, layer in self.layers.items():
            self._handles.append(layer.register_forward_hook(self._note_as(name)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def dead_shares(self) -> dict[str, float]:
        """Share of channels that stayed zero everywhere, by the layer's name; layers without any are left out."""
        shares = {
            name: float((largest < DEAD_BELOW).float().mean()) for name, largest in self._largest.items()
        }
        return {name: share for name, share in shares.items() if share > 0}

    def _note_as(self, name: str):  # type: ignore[no-untyped-def]
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.ndim != 4:
                return  # tokens or a vector: no channels of pixels
            largest = output.detach().abs().amax(dim=(0, 2, 3)).float()
            # A layer that is used more than once has one row a use; any use that is alive will do.
            before = self._largest.get(name)
            same = before is not None and before.shape == largest.shape
            self._largest[name] = torch.maximum(before, largest) if same and before is not None else largest

        return note
