"""`make build` as a user types it, with locks of three small packages: what it makes, and that it makes it again."""

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("markupsafe", "packaging", "pillow")

pytestmark = [pytest.mark.docker(images=False), pytest.mark.slow]


class Checkout:
    """A copy of what an image is made of."""

    def __init__(self, root):
        self.root = root
        self.project = f"build-test-{uuid.uuid4().hex[:8]}"
        root.mkdir()
        for name in ("Dockerfile.train", "Dockerfile.serve", ".dockerignore", "Makefile"):
            shutil.copy(ROOT / name, root)
        for name in ("container", "scripts"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for lock in self.locks():
            blocks = re.findall(rf"^(?:{'|'.join(SMALL)})==.*\n(?:    .*\n)*", lock.read_text(), re.MULTILINE)
            lock.write_text("".join(blocks))

    def locks(self):
        return self.root.glob("container/requirements/*-cu*.lock")

    def move(self, package, source, target):
        """A package of one lock into another."""
        source, target = (self.root / "container/requirements" / name for name in (source, target))
        block = re.search(rf"^{package}==.*\n(?:    .*\n)*", source.read_text(), re.MULTILINE)[0]
        source.write_text(source.read_text().replace(block, ""))
        target.write_text(block)

    def change_what_must_not_matter(self):
        """Another lock in letters but not in packages, hence no cached layer; and a checkout of another time."""
        for lock in self.locks():
            lock.write_text(f"# made anew\n{lock.read_text()}")
        for path in self.root.rglob("*"):
            os.utime(path, (time.time(), time.time()))

    def build(self, engine, role, *words):
        inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
        environment = {name: value for name, value in os.environ.items() if name not in inherited}
        command = ["make", f"build-{role}", f"PROJECT={self.project}", *words]
        ended = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=900
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return engine.images.get(f"{self.project}-{role}:local")


@pytest.fixture
def checkout(engine, tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    yield checkout
    for image in engine.images.list(filters={"reference": f"{checkout.project}-*"}):
        engine.images.remove(image.id, force=True)


@pytest.mark.parametrize(
    ("role", "words", "flavor", "runtime", "version"),
    [
        ("train", (), "cu128", "nvidia-cuda-runtime-cu12==12.8.90", "12.8"),
        ("serve", ("CUDA=13",), "cu130", "nvidia-cuda-runtime==13.0.96", "13.0"),
    ],
)
def test_a_build_is_of_its_cuda_and_the_same_each_time(
    checkout, engine, role, words, flavor, runtime, version
):
    lock = checkout.root / f"container/requirements/{role}-{flavor}.lock"
    # For another system, so that pip passes them over.
    elsewhere = f" ; sys_platform == 'win32' --hash=sha256:{'0' * 64}\n"
    lock.write_text(f"{lock.read_text()}{runtime}{elsewhere}torch==2.99.1{elsewhere}")

    first = checkout.build(engine, role, *words)
    checkout.change_what_must_not_matter()
    second = checkout.build(engine, role, *words)

    written = [first.labels[name] for name in ("flavor", "cuda.version", "torch.version")]
    assert written == [flavor, version, "2.99.1"]
    bill = json.loads((checkout.root / f"{role}-{flavor}.cdx.json").read_text())
    listed = {part["name"] for part in bill["components"] if part["purl"].startswith("pkg:pypi/")}
    assert {name.lower() for name in listed} == set(SMALL)
    assert second.attrs["RootFS"]["Layers"] == first.attrs["RootFS"]["Layers"]


def shell(containers, image, text):
    ended = containers.run(image, ["-c", text], entrypoint="bash", network_mode="none")
    assert ended.exit_code == 0, ended.stderr
    return ended.stdout


MAKE_AN_EXTENSION = """
cd /tmp
cat > made.c <<'END'
#include <Python.h>
static struct PyModuleDef made = {PyModuleDef_HEAD_INIT, "made"};
PyMODINIT_FUNC PyInit_made(void) { return PyModule_Create(&made); }
END
include=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')
gcc -shared -fPIC -I "$include" made.c -o made.so
python3 -c 'import made; print(made.__name__)'
"""


def test_compile_adds_a_compiler_and_its_packages(checkout, engine, containers):
    """What triton does at run time: C against Python's headers, loaded as a module."""
    checkout.move("packaging", "train-cu128.lock", "compile-cu128.lock")
    look = "ls /opt/venv/lib/python3*/site-packages; command -v gcc cc clang || true"
    plain = shell(containers, checkout.build(engine, "train"), look).split()
    assert not {"packaging", "/usr/bin/gcc", "/usr/bin/cc"} & set(plain)

    image = checkout.build(engine, "train", "COMPILE=1")
    assert {"packaging", "/usr/bin/gcc"} <= set(shell(containers, image, look).split())
    assert shell(containers, image, MAKE_AN_EXTENSION) == "made\n"


def test_slim_takes_symbol_tables_and_nothing_else(checkout, engine, containers):
    """On a library of one of the small packages, put where torch has its own."""
    dockerfile = checkout.root / "Dockerfile.serve"
    text, before = dockerfile.read_text(), '    && if [ -n "$SLIM" ]'
    assert text.count(before) == 1
    put = "(cd /opt/venv/lib/python3*/site-packages && mkdir -p torch/lib && cp markupsafe/_sp*.so torch/lib/s.so)"
    dockerfile.write_text(text.replace(before, f"    && {put} \\\n{before}"))
    look = (
        "import ctypes, pathlib; [path] = pathlib.Path('/opt/venv').rglob('torch/lib/s.so'); "
        "print([name in path.read_bytes() for name in (b'.symtab', b'.dynsym')], "
        "bool(ctypes.PyDLL(path).PyInit__speedups))"
    )
    for words, has_symbols in (((), True), (("SLIM=1",), False)):
        image = checkout.build(engine, "serve", *words)
        assert shell(containers, image, f'python3 -c "{look}"') == f"[{has_symbols}, True] True\n"
