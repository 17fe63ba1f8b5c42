"""Where the network runs: the first visible GPU, or the CPU of a host that has none."""

import os
from pathlib import Path

import torch

DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def pick_device() -> torch.device:
    """The device to use: the one that was set, where several processes share the host's GPUs.

    Raises RuntimeError when the host has an NVIDIA driver that torch cannot use: to go on at the
    CPU's speed and the GPU's price would hide it. CUDA_VISIBLE_DEVICES= (empty) chooses the CPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if DRIVER_VERSION.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        driver = DRIVER_VERSION.read_text().splitlines()[0]
        raise RuntimeError(
            f"the host has an NVIDIA driver but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU "
            f"it can use; driver: {driver}; choose a newer host image, or set CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    return torch.device("cpu")
