"""The locks are what their .in files ask for: every requirement at one version, with hashes, and nothing else."""

import re
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "container/requirements"
LOCKS = {
    "dev.lock": ("dev.in", "cu128.txt"),
    "train-cu128.lock": ("train.in", "cu128.txt"),
    "train-cu130.lock": ("train.in", "cu130.txt"),
    "serve-cu128.lock": ("serve.in", "cu128.txt"),
    "serve-cu130.lock": ("serve.in", "cu130.txt"),
    "serve-cpu.lock": ("serve-cpu.in",),
    "compile-cu128.lock": ("compile.in",),
    "compile-cu130.lock": ("compile.in",),
}
COMPILER = {"triton", "cuda-bindings", "cuda-pathfinder"}  # torch.compile on a GPU
NOT_NEEDED = {
    "train-cu128.lock": COMPILER,
    "serve-cu128.lock": COMPILER | {"setuptools"},
    "serve-cpu.lock": {"sympy", "mpmath"},  # onnxruntime's tools
}


def asked_for(name):
    """The requirements of an .in file and of those that it includes."""
    found = []
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("-r "):
            found += asked_for(line[3:])
        elif line and not line.startswith(("#", "-c ")):
            found.append(Requirement(line))
    return found


def entries(name):
    """[(requirement pinned by ==, number of hashes)], those for another Python or system included."""
    blocks = re.findall(r"^([a-z0-9].*)\n((?: +--hash=.*\n)*)", (FOLDER / name).read_text(), re.MULTILINE)
    return [
        (Requirement(head.removesuffix(" \\")), hashes.count("--hash=sha256:")) for head, hashes in blocks
    ]


def locked_here(name):
    """Package -> version, on this machine's Python."""
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin, _ in entries(name)
        if pin.marker is None or pin.marker.evaluate()
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_one_version_with_hashes(lock):
    found = entries(lock)
    assert len(found) > 2
    for pin, hashes in found:
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), pin
        assert hashes, pin


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_is_locked_within_its_limits(lock):
    locked = locked_here(lock)
    for requirement in [requirement for source in LOCKS[lock] for requirement in asked_for(source)]:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if "cu130" not in lock])
def test_a_lock_holds_what_its_packages_need_and_nothing_else(lock):
    """Followed through the metadata of what is installed here, which dev.lock says."""
    locked = locked_here(lock)
    needed, todo = set(), asked_for(LOCKS[lock][0])
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in needed:
                needed.add((name, extra))
                below = [Requirement(text) for text in requires(name) or []]
                todo += [r for r in below if r.marker is None or r.marker.evaluate({"extra": extra})]
    names = {name for name, _ in needed} - NOT_NEEDED.get(lock, set())
    assert names == set(locked)
    for name in names:
        assert locked[name] == version(name), "another version is installed: run `make setup`"


@pytest.mark.parametrize("role", ["train", "serve"])
def test_the_flavours_differ_in_torch_alone(role):
    torchs = re.compile(r"torch|torchvision|triton|setuptools|(nvidia|cuda)-(?!ml-py).*")
    packages = [
        {
            name: value
            for name, value in locked_here(f"{role}-{flavor}.lock").items()
            if not torchs.fullmatch(name)
        }
        for flavor in ("cu128", "cu130")
    ]
    assert packages[0] == packages[1]
