"""End of a training run: what the artifact says of its own making."""

import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from surface_normals.codecs import MIN_SIDE
from surface_normals.training.config import Config

REVISION_FILE = Path(__file__).parents[2] / "REVISION"


def facts(config: Config, step: int, seconds: float) -> dict[str, Any]:
    """Sizes, the run and the versions. `seconds`: wall time of all attempts that led to this model."""
    return {
        "sizes": {"training_crop": [config.crop_height, config.crop_width], "smallest_side": MIN_SIDE},
        "trained": {"step": step, "seconds": round(seconds, 1), "config": asdict(config)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "revision": _revision(),
    }


def environment(facts: dict[str, Any], device: torch.device, num_processes: int) -> dict[str, str]:
    """What the report says of where the run was."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name if num_processes == 1 else f"{num_processes} x {name}",
        "training time": f"{facts['trained']['seconds']:.0f} s",
        **facts["versions"],
        "revision": (facts["revision"] or "unknown")[:12],
    }


def _revision() -> str | None:
    """The code's git revision: from the file that the image build writes, else from git, else None."""
    if REVISION_FILE.is_file():
        return REVISION_FILE.read_text().strip() or None
    try:
        command = ["git", "-C", str(REVISION_FILE.parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
