"""Inside the training run with compile=true: torch.compile, and what it needs of the machine."""

import importlib.util
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

COMPILERS = {"cuda": ("gcc", "clang"), "cpu": ("g++",)}
"""What triton makes its launcher with on GPUs, and torch's inductor its kernels on CPUs; one of them is enough."""
CURES = {
    "cuda": "build the image with `make build-train COMPILE=1`",
    "cpu": "install the packages g++ and python3-dev",
}


def require_compiler(device: torch.device) -> None:
    """Raises ValueError when torch.compile would fail here, some minutes later and less plainly."""
    names = COMPILERS[device.type]
    missing = []
    if not any(shutil.which(name) for name in names):
        missing.append(" or ".join(names))
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append("Python's headers")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("triton")
    if missing:
        raise ValueError(
            f"compile=true needs {' and '.join(missing)}, which this machine lacks: "
            f"{CURES[device.type]}, or set compile=false"
        )


def compiled(network: nn.Module) -> Callable[..., Any]:
    """What to call in training; the one given keeps its weights, their names, and its own plain forward.

    What several ranks share must be wrapped before, not after: torch then cuts the graph where gradients are exchanged.
    """
    return torch.compile(network)
