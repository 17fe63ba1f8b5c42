"""First step of both programs: the host's NVIDIA driver beside the image's CUDA, before anything loads either.

A driver that is too old would else end the container with an error of CUDA's, or be taken for a host without a GPU.
"""

import importlib.util
import os
import re
from pathlib import Path

import cgroup

Version = tuple[int, ...]

HOST = Path("/")
OLDEST_DRIVER: dict[int, Version] = {12: (525, 60), 13: (580,)}
"""By CUDA's major version: the first driver that runs all its minor versions (NVIDIA's minor version compatibility)."""
HOST_IMAGES = {12: "al2-ami-sagemaker-inference-gpu-3-1", 13: "al2023-ami-sagemaker-inference-gpu-4-1"}
"""The host image of a SageMaker endpoint that has such a driver: 550 and 580. Its default has 470 on many instances."""


class DriverTooOld(ValueError):
    """The host cannot run this image's CUDA; the text says what to choose."""


def describe(root: Path = HOST, *, visible_gpus: int | None = None) -> str:
    """One line on what there is: versions, GPUs and how many of them are visible here, memory, processors."""
    versions = {"torch": torch_version("__version__"), "CUDA": torch_version("cuda")}
    libraries = [f"{name} {version}" for name, version in versions.items() if version]
    driver, compatibility = read_driver(root), read_compatibility(root)
    libraries.append(f"driver {driver}" if driver else "no NVIDIA driver")
    if is_bridged(root):
        libraries.append(f"bridged by {compatibility}")
    models = read_gpus(root)
    gpus = [f"{models.count(model)} x {model}" for model in dict.fromkeys(models)]
    if models and visible_gpus is not None:
        gpus.append(f"{visible_gpus} visible")
    return ", ".join([*libraries, *gpus, *_describe_limits(root)])


def _describe_limits(root: Path) -> list[str]:
    """Memory and processors: what the container may use of them."""
    shared = os.statvfs(root / "dev/shm") if (root / "dev/shm").is_dir() else None
    memory, quota = (limit(root / "sys/fs/cgroup") for limit in (cgroup.memory_limit, cgroup.processor_quota))
    processors = f"{len(os.sched_getaffinity(0))} processors"
    return [
        *([f"{shared.f_blocks * shared.f_frsize / 1e6:.0f} MB of shared memory"] if shared else []),
        *([f"at most {memory / 1e9:.1f} GB of memory"] if memory is not None else []),
        processors if quota is None else f"the time of {quota:g} of {processors}",
    ]


def check(root: Path = HOST) -> None:
    """Raise DriverTooOld where the host has a driver that neither runs this image's CUDA nor can be bridged."""
    driver, cuda = read_driver(root), read_cuda()
    if driver is None or cuda is None or is_bridged(root) or _version(driver) >= _oldest(cuda):
        return
    major, oldest = _version(cuda)[0], ".".join(map(str, _oldest(cuda)))
    other = "" if major == 12 else ", or an image of CUDA 12"
    raise DriverTooOld(
        f"the host's NVIDIA driver {driver} is too old for this image's CUDA {cuda}, which needs "
        f"{oldest} or newer: on an endpoint set InferenceAmiVersion={HOST_IMAGES[major]}, elsewhere "
        f"choose a newer host{other}"
    )


def bridge(library_path: str | None, root: Path = HOST) -> dict[str, str]:
    """What a process that is to load CUDA needs in its environment; `library_path` is its LD_LIBRARY_PATH so far.

    Empty but where the driver is too old and the image has NVIDIA's forward compatibility libraries. They are for
    data-centre GPUs only, and with a driver newer than themselves they fail: so not where it works without.
    """
    if not is_bridged(root):
        return {}
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(_compatibility_dir(root)), library_path]))}


def is_bridged(root: Path = HOST) -> bool:
    driver, cuda, compatibility = read_driver(root), read_cuda(), read_compatibility(root)
    if driver is None or cuda is None or compatibility is None:
        return False
    return _version(driver) < _oldest(cuda) <= _version(compatibility)


def read_driver(root: Path = HOST) -> str | None:
    """The version of the host's kernel module, the open one's too; None without one."""
    try:
        first = (root / "proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:
        return None
    found = re.search(r" (\d+(?:\.\d+)+) ", f"{first} ")
    return found[1] if found else None


def read_gpus(root: Path = HOST) -> list[str]:
    """The models of the host's GPUs."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    return [
        found[1]
        for file in files
        if (found := re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE))
    ]


def read_compatibility(root: Path = HOST) -> str | None:
    """The driver's version that the image's forward compatibility libraries are of; None without them."""
    library = (_compatibility_dir(root) / "libcuda.so.1").resolve()
    found = re.fullmatch(r"libcuda\.so\.(\d+(?:\.\d+)+)", library.name)
    return found[1] if found and library.exists() else None


def read_cuda() -> str | None:
    """The CUDA that torch is built for; None without torch, or with one for the CPU."""
    text = torch_version("cuda")
    return text if text and re.fullmatch(r"\d+(\.\d+)+", text) else None


def torch_version(name: str) -> str | None:
    """`cuda` or `__version__` of torch's version file, read without importing torch; None if it has none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"+]+)", text, re.MULTILINE)
    return found[1] if found else None


def _compatibility_dir(root: Path) -> Path:
    return root / "usr/local/cuda/compat"


def _oldest(cuda: str) -> Version:
    return OLDEST_DRIVER.get(_version(cuda)[0], (0,))


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))
