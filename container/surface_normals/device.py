"""Where the network runs: the first visible GPU, or the CPU of a host that has none."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def has_gpu_driver() -> bool:
    """Whether a GPU is to be used: there is NVIDIA's driver, and nobody has chosen the CPU. Loads no library."""
    return DRIVER_VERSION.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def pick_device() -> "torch.device":
    """The device to use: the one that was set, where several processes share the host's GPUs.

    Raises RuntimeError when the host has an NVIDIA driver that torch cannot use: to go on at the
    CPU's speed and the GPU's price would hide it. CUDA_VISIBLE_DEVICES= (empty) chooses the CPU.
    """
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if has_gpu_driver():
        driver = DRIVER_VERSION.read_text().splitlines()[0]
        raise RuntimeError(
            f"the host has an NVIDIA driver but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU "
            f"it can use; driver: {driver}; choose a newer host image, or set CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    return torch.device("cpu")
