"""Inside the training run: how large the gradients are, part by part of the network."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from surface_normals.training.health import PARTS

STEPS_BETWEEN = 10
"""The norms of the parts cost some small kernels. That of all is known at each step, as gradients are clipped by it."""


class GradientNorms:
    """Collects the parts' norms, on the device, until they are asked for."""

    def __init__(self, network: nn.Module) -> None:
        self.parts: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
        for name, parameter in network.named_parameters():
            part = name.partition(".")[0]
            self.parts[part if part in PARTS else "decoder"].append(parameter)
        self._norms: dict[str, list[Tensor]] = {}

    def add(self, step: int) -> None:
        """After the backward pass, before clipping."""
        if step % STEPS_BETWEEN:
            return
        for part, parameters in self.parts.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients)
                if isinstance(norm, DTensor):
                    norm = norm.full_tensor()
                self._norms.setdefault(part, []).append(norm)

    def take(self) -> dict[str, float]:
        """Means since the last call, by part."""
        collected = {name: torch.stack(norms) for name, norms in self._norms.items()}
        self._norms.clear()
        # Infinite ones are of steps that a loss scaler left out; the run ends at any others before it gets here.
        finite = {name: norms[norms.isfinite()] for name, norms in collected.items()}
        return {name: norms.mean().item() for name, norms in finite.items() if len(norms)}
