"""Builds the fake NVIDIA driver library (fake_nvml.c) and turns its knobs.

directory = nvml.build(tmp_path)
nvml.turn(directory, {"gpus": 2, "0.utilization": 87})
subprocess.Popen(..., env={**os.environ, "LD_LIBRARY_PATH": str(directory)})
"""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")


def build(directory: Path, without: Sequence[str] = ()) -> Path:
    """Put `libnvidia-ml.so.1` into `directory` and return the folder for LD_LIBRARY_PATH.

    `without`: symbols that it shall lack, as those of older drivers do. Skips the test where there is no gcc.
    """
    if shutil.which("gcc") is None:
        pytest.skip("no gcc: the fake NVIDIA library cannot be compiled")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "libnvidia-ml.so.1").write_bytes(_compiled(tuple(without)))
    return directory


@functools.cache
def _compiled(without: tuple[str, ...]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        options = ["-Wall", "-Wextra", "-Werror", *(f"-D{symbol}=without_{symbol}" for symbol in without)]
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", *options, "-o", library, SOURCE, "-ldl", "-lpthread"],
            check=True,
            timeout=60,
        )
        return library.read_bytes()


def turn(directory: Path, knobs: Mapping[str, int]) -> None:
    """Set all knobs anew, from the library's next call on; the names are listed in fake_nvml.c."""
    temporary = directory / "knobs.new"
    temporary.write_text("".join(f"{name} {value}\n" for name, value in knobs.items()))
    temporary.replace(directory / "knobs")
