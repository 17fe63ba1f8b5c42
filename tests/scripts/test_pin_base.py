"""pin_base.py as a process: real Dockerfiles, a real engine, and the bases in a registry on loopback."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
NAMES = ("Dockerfile.serve", "Dockerfile.train")
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

pytestmark = pytest.mark.docker(images=False)


@pytest.fixture
def checkout(tmp_path, registry):
    """The Dockerfiles of this checkout, their bases in the registry of the test."""
    (tmp_path / "scripts").mkdir()
    for name in ("pin_base.py", "engine.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name in NAMES:
        text = re.sub(r"@sha256:\w+", "", (ROOT / name).read_text())
        (tmp_path / name).write_text(
            re.sub(r"^FROM (?=\S+:)", f"FROM {registry.host}/", text, flags=re.MULTILINE)
        )
    return tmp_path


@pytest.fixture
def log_in(registry, environment):
    folder = Path(environment["DOCKER_CONFIG"])
    folder.mkdir()
    login = [DOCKER, "login", "--username", registry.user, "--password-stdin", registry.host]
    subprocess.run(
        login, input=registry.password, env=environment, capture_output=True, text=True, check=True
    )


def publish(registry, base, comment):
    """A list of images, as the bases are; its digest."""
    repository, tag = base.removeprefix(f"{registry.host}/").split(":")
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": LIST, "manifests": [], "comment": comment}
    ).encode()
    answer = registry.request(
        "PUT", f"{repository}/manifests/{tag}", data=manifest, headers={"Content-Type": LIST}
    )
    assert answer.status_code == 201, answer.text
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def pin(checkout, environment):
    command = [sys.executable, str(checkout / "scripts/pin_base.py"), "--docker", DOCKER]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def bases(checkout, name):
    """Flavour -> its base image, as the Dockerfile has it."""
    found = re.findall(r"^FROM (\S+/\S+:\S+) AS (\S+)$", (checkout / name).read_text(), re.MULTILINE)
    return {flavor: base for base, flavor in found}


def test_the_digests_of_the_registry_are_written_and_renewed(checkout, environment, registry, log_in):
    tagged = {name: bases(checkout, name) for name in NAMES}
    assert {name: set(flavors) for name, flavors in tagged.items()} == {
        "Dockerfile.serve": {"cu128", "cu130", "cpu"},
        "Dockerfile.train": {"cu128", "cu130"},
    }
    before = {name: (checkout / name).read_text() for name in NAMES}
    for release in ("first", "mended"):
        published = {base for flavors in tagged.values() for base in flavors.values()}
        digests = {base: publish(registry, base, f"{release} {base}") for base in published}
        result = pin(checkout, environment)
        assert result.returncode == 0, result.stderr

        for name in NAMES:
            assert bases(checkout, name) == {
                flavor: f"{base}@{digests[base]}" for flavor, base in tagged[name].items()
            }
            assert re.sub(r"@sha256:\w+", "", (checkout / name).read_text()) == before[name]


def test_when_one_base_is_missing_nothing_is_changed(checkout, environment, registry, log_in):
    text = (checkout / NAMES[0]).read_text().replace("13.0", "99.0")
    (checkout / NAMES[0]).write_text(text)
    before = {name: (checkout / name).read_text() for name in NAMES}
    result = pin(checkout, environment)

    assert result.returncode == 1
    assert result.stderr.startswith("pin-base: nothing is changed: ")
    assert {name: (checkout / name).read_text() for name in NAMES} == before
