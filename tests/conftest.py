"""What all tests share: a header that says what this machine can run, and a reason for what it cannot.

REQUIRE_DOCKER=1 turns the lack of an engine or of the images from a reason into a failure.
"""

import contextlib
import functools
import gc
import os
import signal
import warnings
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the programs set it; read when torch is imported

IMAGES = {
    "train": os.environ.get("TRAIN_IMAGE", "surface-normals-train:local"),
    "serve": os.environ.get("SERVE_IMAGE", "surface-normals-serve:local"),
}


def pytest_configure():
    # A shell's background job ignores Ctrl-C, and so would every program that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return [
        f"containers: {docker_trouble() or ', '.join(IMAGES.values())}",
        f"GPUs: {gpus or 'none'}",
    ]


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("docker")
    if marker and (trouble := docker_trouble(**marker.kwargs)):
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(f"REQUIRE_DOCKER=1, but {trouble}", pytrace=False)
        pytest.skip(trouble)


@functools.cache
def docker_trouble(*, images: bool = True) -> str | None:
    """Why tests with an engine, and with our images unless these are not needed, cannot run; None when they can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        trouble = _docker_trouble(IMAGES.values() if images else ())
        gc.collect()  # the docker package leaves its socket open when nobody answers
    return trouble


def _docker_trouble(images):
    try:
        with contextlib.closing(docker.from_env()) as engine:
            for image in images:
                engine.images.get(image)
    except ImageNotFound:
        return f"there is no image {image}: run `make build`"
    except DockerException as error:
        return f"no Docker engine answers: {str(error).splitlines()[0]}"
    return None
