"""Where the network runs: the first visible GPU, or the CPU of a host that has none."""

import os
import re
from collections.abc import Iterable
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

    Raises RuntimeError when the host has an NVIDIA driver or a GPU that torch cannot use: to go on at the
    CPU's speed and the GPU's price would hide it. CUDA_VISIBLE_DEVICES= (empty) chooses the CPU.
    """
    import torch

    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        capability, built_for = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
        if not has_kernels(capability, built_for):
            raise RuntimeError(
                f"torch {torch.__version__} has no kernels for the {torch.cuda.get_device_name(device)}, which is of "
                f"compute capability {capability[0]}.{capability[1]}, only for {', '.join(built_for)}: choose another "
                "instance type or an image of another CUDA, or set CUDA_VISIBLE_DEVICES= to use the CPU"
            )
        return device
    if has_gpu_driver():
        driver = DRIVER_VERSION.read_text().splitlines()[0]
        raise RuntimeError(
            f"the host has an NVIDIA driver but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU "
            f"it can use; driver: {driver}; choose a newer host image, or set CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    return torch.device("cpu")


def has_kernels(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Whether a GPU runs what torch was built for: machine code of its own generation (sm_86) and at most its
    capability, or code that its driver translates, of at most its capability (compute_90).
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in built_for]
    for kind, major, minor, only in (match.groups() for match in found if match):
        of = (int(major), int(minor))
        if of == capability or (
            only != "a" and of <= capability and (kind == "compute" or of[0] == capability[0])
        ):
            return True
    return False
