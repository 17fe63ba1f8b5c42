"""`make image-report`: the two images' sizes beside their aims, and where the bytes are, by layer and folder."""

import argparse
import sys
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound

from engine import NoEngine, connect

FOLDERS = 10
AIMS_MB = {"train": 6000, "serve": 4400, "serve-cpu": 500}
"""Unpacked. CUDA 12.8's libraries alone are larger than what is left for them."""
WORDS = 88  # characters of a layer's command


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Where the bytes of images are: layers, and the largest folders."
    )
    parser.add_argument("image", nargs="+")
    parser.add_argument("--docker", default="docker", help="the client whose context names the engine")
    parser.add_argument("--sizes", action="store_true", help="the sizes alone")
    options = parser.parse_args()
    try:
        engine = connect(options.docker)
        for name in options.image:
            print_size(engine, name)
            if not options.sizes:
                print_report(engine, name)
    except ImageNotFound:
        sys.exit(f"image-report: no image {name} on this machine: run `make build` first")
    except (NoEngine, DockerException) as error:
        sys.exit(f"image-report: {' '.join(str(error).split())}")


def print_size(engine: docker.DockerClient, name: str) -> None:
    image = engine.images.get(name)
    flavor = image.labels.get("flavor", "no flavour")
    role = Path((image.attrs["Config"]["Entrypoint"] or [""])[0]).name
    aim = AIMS_MB.get(f"{role}-{flavor}", AIMS_MB.get(role))
    beside = f", aim {aim:,}" if aim else ""
    print(f"{name}: {image.attrs['Size'] / 1e6:,.0f} MB unpacked{beside}, {flavor}")


def print_report(engine: docker.DockerClient, name: str) -> None:
    image = engine.images.get(name)
    print("\n     MB  layer, the lowest first")
    for layer in reversed(image.history()):
        if layer["Size"]:
            print(f"{layer['Size'] / 1e6:7,.1f}  {made_by(layer)[:WORDS]}")
    print("\n     MB  folder, without its sub-folders")
    for size, folder in largest_folders(engine, image):
        print(f"{size / 1e6:7,.1f}  {folder}")
    print()


def made_by(layer: dict[str, Any]) -> str:
    """The Dockerfile's words, without those that BuildKit wraps them in."""
    words = " ".join(layer["CreatedBy"].split())
    for wrapping in ("/bin/sh -c ", "#(nop) ", "# buildkit"):
        words = words.replace(wrapping, "")
    return words or layer["Comment"] or "the base image"


def largest_folders(engine: docker.DockerClient, image: Any) -> list[tuple[int, str]]:
    """(bytes, folder), the largest first: of the files that lie in it."""
    listed = engine.containers.run(
        image, ["-x", "-S", "--block-size=1", "/"], entrypoint="du", network_mode="none", remove=True
    )
    rows = [line.split("\t", 1) for line in listed.decode().splitlines()]
    return sorted(((int(size), folder) for size, folder in rows), reverse=True)[:FOLDERS]


if __name__ == "__main__":
    main()
