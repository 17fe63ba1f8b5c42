"""`make bench-start`: seconds from `docker run` to the first 200 of /ping and to the first answer, and what they go to.

Measured with the image's compiled modules and without, with the page cache as a new host has it (cold) and as the
last start left it (warm). Then the imports of the process that answers, by package. Emptying the page cache slows
down everything else on the machine for a while: it is done only with --cold.
"""

import argparse
import contextlib
import io
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import DockerException, ImageNotFound
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from engine import NoEngine, connect  # noqa: E402
from serving_benchmark.workload import make_model  # noqa: E402

DEADLINE_SECONDS = 300
POLL_SECONDS = 0.02
PACKAGES = 8
WITHOUT_COMPILED = {"PYTHONPYCACHEPREFIX": "/nowhere"}
"""Python then looks for compiled modules where there are none."""


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the serving image takes to its first answer.")
    parser.add_argument("image")
    parser.add_argument(
        "model", type=Path, nargs="?", help="folder of a trained model; without it, an untrained network S"
    )
    parser.add_argument("--docker", default="docker", help="the client whose context names the engine")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind; the median counts")
    parser.add_argument("--cold", action="store_true", help="also with an empty page cache; privileged")
    options = parser.parse_args()
    if options.model and (not options.model.is_dir() or not any(options.model.iterdir())):
        sys.exit(f"bench-start: no model in {options.model}: run `make train-local` first")
    try:
        engine = connect(options.docker)
        engine.images.get(options.image)
        with tempfile.TemporaryDirectory() as folder:
            if not options.model:
                options.model = Path(folder) / "model"
                make_model(options.model, "S")
            measure(engine, options)
    except ImageNotFound:
        sys.exit(f"bench-start: no image {options.image} on this machine: run `make build-serve` first")
    except (NoEngine, DockerException) as error:
        sys.exit(f"bench-start: {' '.join(str(error).split())}")


def measure(engine: docker.DockerClient, options: argparse.Namespace) -> None:
    picture = make_picture()
    start_once(engine, options, picture, {})  # so that the first row is warm, too
    print(f"{options.image}, median of {options.rounds} starts; seconds from `docker run`, memory in MB\n")
    print("compiled  page cache  first 200  first answer  memory")
    for compiled, variables in (("yes", {}), ("no", WITHOUT_COMPILED)):
        for cache in ("warm", "cold") if options.cold else ("warm",):
            starts = []
            for _ in range(options.rounds):
                if cache == "cold":
                    empty_page_cache(engine, options.image)
                starts.append(start_once(engine, options, picture, variables))
            ready, answered, memory = (statistics.median(column) for column in zip(*starts, strict=True))
            print(
                f"{compiled:8}  {cache:10}  {ready:9.2f}  {answered:12.2f}  {memory / 1e6:6.0f}", flush=True
            )
    print("\nseconds  modules  imported by the process that answers, the package's own share")
    for package, seconds, modules in imports(engine, options):
        print(f"{seconds:7.2f}  {modules:7}  {package}")


def start_once(
    engine: docker.DockerClient, options: argparse.Namespace, picture: bytes, variables: dict[str, str]
) -> tuple[float, float, int]:
    """Seconds to the first 200 and to the first answer, and the bytes of memory that the container then has."""
    began = time.monotonic()
    container = engine.containers.run(
        options.image,
        detach=True,
        environment={"GPU_METRICS": "off", **variables},
        ports={"8080/tcp": ("127.0.0.1", None)},
        volumes=mounted(options.model),
    )
    try:
        container.reload()
        url = f"http://127.0.0.1:{container.ports['8080/tcp'][0]['HostPort']}"
        while not is_ready(url):
            container.reload()
            if container.status == "exited" or time.monotonic() - began > DEADLINE_SECONDS:
                sys.exit(f"bench-start: the server did not come up:\n{container.logs().decode()[-2000:]}")
            time.sleep(POLL_SECONDS)
        ready = time.monotonic() - began
        answer = requests.post(
            f"{url}/invocations", data=picture, headers={"Content-Type": "image/png"}, timeout=60
        )
        answer.raise_for_status()
        answered = time.monotonic() - began
        return ready, answered, used_bytes(container)
    finally:
        container.remove(force=True, v=True)


def mounted(model: Path) -> dict[str, dict[str, str]]:
    return {str(model.resolve()): {"bind": "/opt/ml/model", "mode": "ro"}}


def is_ready(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"{url}/ping", timeout=2).status_code == 200
    return False


def used_bytes(container: Any) -> int:
    """Memory without the page cache of files, which the kernel takes back when it needs it."""
    found = container.stats(stream=False)["memory_stats"]
    of_files = found["stats"].get("inactive_file", found["stats"].get("total_inactive_file", 0))
    return int(found["usage"] - of_files)


def empty_page_cache(engine: docker.DockerClient, image: str) -> None:
    os.sync()
    with contextlib.suppress(OSError):  # root on the engine's own machine needs no container
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return
    command = "sync; echo 3 > /proc/sys/vm/drop_caches"
    engine.containers.run(image, ["-c", command], entrypoint="sh", privileged=True, remove=True)


def imports(engine: docker.DockerClient, options: argparse.Namespace) -> list[tuple[str, float, int]]:
    """(package, seconds, modules), the slowest first: of what a worker imports until its model is loaded."""
    program = (
        "import os, pathlib, serving.app, model_api;"
        "model_api.load_predictor(os.environ['MODEL_PACKAGE'], pathlib.Path('/opt/ml/model'))"
    )
    told = engine.containers.run(
        options.image,
        ["-X", "importtime", "-c", program],
        entrypoint="python3",
        volumes=mounted(options.model),
        stdout=False,
        stderr=True,
        remove=True,
    )
    seconds, modules = Counter[str](), Counter[str]()
    for microseconds, name in re.findall(
        r"^import time: +(\d+) \| +\d+ \| +(\S+)$", told.decode(), re.MULTILINE
    ):
        package = name.partition(".")[0]
        seconds[package] += int(microseconds)
        modules[package] += 1
    return [(package, total / 1e6, modules[package]) for package, total in seconds.most_common(PACKAGES)]


def make_picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((320, 240)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
