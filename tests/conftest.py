"""What all tests share: a header that says what this machine can run, and a reason for what it cannot.

REQUIRE_DOCKER=1 turns the lack of an engine or of the images from a reason into a failure.
"""

import contextlib
import functools
import os
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

IMAGES = {
    "train": os.environ.get("TRAIN_IMAGE", "surface-normals-train:local"),
    "serve": os.environ.get("SERVE_IMAGE", "surface-normals-serve:local"),
}


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
def docker_trouble(images: bool = True) -> str | None:
    """Why tests with containers cannot run here; None when they can. `images`: whether they need ours."""
    try:
        with contextlib.closing(docker.from_env()) as engine:
            engine.ping()
            for image in IMAGES.values() if images else ():
                engine.images.get(image)
    except ImageNotFound:
        return f"there is no image {image}: run `make build`"
    except DockerException as error:
        return f"no Docker engine answers ({str(error).splitlines()[0]})"
    return None
