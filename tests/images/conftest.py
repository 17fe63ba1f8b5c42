"""Containers as SageMaker starts them, with deadlines, and with their logs when something goes wrong."""

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import requests

from surface_normals.training.synthetic.dataset import write_dataset

HYPERPARAMETERS = {  # strings, as SageMaker writes them; small enough for seconds on a processor
    "size": "tiny",
    "epochs": "1",
    "batch_size": "2",
    "crop_height": "64",
    "crop_width": "64",
    "workers": "0",
}


@dataclass(frozen=True)
class Ended:
    """What is left of a container."""

    exit_code: int
    stdout: str
    stderr: str


class Containers:
    """Starts containers, and removes those that it started."""

    def __init__(self, engine):
        self.engine = engine
        self.started = []

    def start(self, image, command=None, **options):
        # By the label, what a killed run of the tests left can be found.
        labels = ["surface-normals-tests"]
        container = self.engine.containers.run(image, command, detach=True, labels=labels, **options)
        self.started.append(container)
        return container

    def run(self, image, command=None, *, deadline_seconds=120, **options) -> Ended:
        """Start a container and wait for its end."""
        return self.end_of(self.start(image, command, **options), deadline_seconds)

    def end_of(self, container, deadline_seconds) -> Ended:
        try:
            code = container.wait(timeout=deadline_seconds)["StatusCode"]
        except (requests.ConnectionError, requests.Timeout):
            container.kill()
            pytest.fail(f"still running after {deadline_seconds} s:\n{log_of(container)}")
        stdout = container.logs(stdout=True, stderr=False).decode()
        return Ended(code, stdout, container.logs(stdout=False, stderr=True).decode())

    def server(self, image, command="serve", *, port=8080, deadline_seconds=120, ready=True, **options):
        """Start a server: the container and its address. If `ready`, /ping says 200."""
        options = {"ports": {f"{port}/tcp": ("127.0.0.1", None)}, **options}
        container = self.start(image, command, **options)
        container.reload()
        host_port = container.ports[f"{port}/tcp"][0]["HostPort"]
        url = f"http://127.0.0.1:{host_port}"
        if ready:
            self.wait_until_ready(container, url, deadline_seconds)
        return container, url

    def wait_until_ready(self, container, url, deadline_seconds):
        def is_ready():
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                return requests.get(f"{url}/ping", timeout=2).status_code == 200

        self.wait_until(is_ready, container, deadline_seconds, "/ping says 200")

    def wait_until(self, condition, container, deadline_seconds, what):
        """Poll `condition` until it holds. Fails with the container's log when it ends or takes too long."""
        deadline = time.monotonic() + deadline_seconds
        while not condition():
            container.reload()
            if container.status == "exited":
                code = container.attrs["State"]["ExitCode"]
                pytest.fail(f"ended with {code} before {what}:\n{log_of(container)}")
            if time.monotonic() > deadline:
                pytest.fail(f"not within {deadline_seconds} s: {what}:\n{log_of(container)}")
            time.sleep(0.2)


def log_of(container):
    return container.logs().decode(errors="replace")[-6000:]


@pytest.fixture(scope="session")
def engine():
    with contextlib.closing(docker.from_env(timeout=600)) as engine:
        yield engine


@contextlib.contextmanager
def removed(containers):
    try:
        yield containers
    finally:
        for container in containers.started:
            container.remove(force=True, v=True)


@pytest.fixture
def containers(engine):
    with removed(Containers(engine)) as containers:
        yield containers


@pytest.fixture(scope="module")
def module_containers(engine):
    with removed(Containers(engine)) as containers:
        yield containers


@pytest.fixture
def make_network(engine):
    """A network for several containers; from an `internal` one nothing else can be reached."""
    made = []

    def make(*, internal):
        network = engine.networks.create(f"hosts-{uuid.uuid4().hex[:8]}", internal=internal)
        network.reload()
        made.append(network)
        return network

    yield make
    for network in made:
        network.reload()
        for container in network.containers:
            network.disconnect(container, force=True)
        network.remove()


@pytest.fixture(scope="session")
def train_image():
    return os.environ.get("TRAIN_IMAGE", "surface-normals-train:local")


@pytest.fixture(scope="session")
def serve_image():
    return os.environ.get("SERVE_IMAGE", "surface-normals-serve:local")


class MountedTree:
    """A folder of this machine that a container sees as /opt/ml."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True)

    def add_pictures(self, channel, count, seed=1):
        channel_dir = self.root / "input/data" / channel
        channel_dir.parent.mkdir(parents=True, exist_ok=True)
        for _ in write_dataset(channel_dir, count=count, width=64, height=64, seed=seed):
            pass

    def set_hyperparameters(self, **hyperparameters):
        self.configure("hyperparameters", hyperparameters)

    def configure(self, name, value):
        """Write a file of input/config."""
        file = self.root / f"input/config/{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))

    @property
    def failure(self):
        """What SageMaker shows of it: all, or the test fails."""
        text = (self.root / "output/failure").read_text()
        assert len(text) <= 1024
        return text

    @property
    def volumes(self):
        return {str(self.root): {"bind": "/opt/ml", "mode": "rw"}}


@pytest.fixture(scope="session")
def make_tree(tmp_path_factory, engine, train_image):
    """`make_tree()`: a new /opt/ml. The files that containers leave in it, root's, are given to us at the end."""
    trees = []

    def make():
        trees.append(MountedTree(tmp_path_factory.mktemp("tree") / "opt/ml"))
        return trees[-1]

    yield make
    if os.getuid() != 0:
        for tree in trees:
            owner = ["-R", f"{os.getuid()}:{os.getgid()}", "/opt/ml"]
            engine.containers.run(train_image, owner, entrypoint="chown", volumes=tree.volumes, remove=True)


@pytest.fixture(scope="session")
def trained(make_tree, engine, train_image):
    """A job run to its end by `docker run IMAGE train` without a network: its tree, and how it ended."""
    tree = make_tree()
    tree.add_pictures("train", 4)
    tree.add_pictures("validation", 2, seed=2)
    tree.set_hyperparameters(**HYPERPARAMETERS)
    with removed(Containers(engine)) as containers:
        ended = containers.run(
            train_image, "train", volumes=tree.volumes, network_mode="none", deadline_seconds=300
        )
    return tree, ended


@pytest.fixture(scope="session")
def model_mount(trained):
    """The trained model, mounted as hosting does: read-only."""
    tree, ended = trained
    assert ended.exit_code == 0, ended.stderr
    return {str(tree.root / "model"): {"bind": "/opt/ml/model", "mode": "ro"}}
