"""The host's driver beside the image's CUDA: with the files of a driver faked, and through both programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import driver

ROOT = Path(__file__).resolve().parent.parent
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Oct 25 20:21:00 UTC 2023\nGCC version: 12.3\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (builder)  Tue Aug 5 2025\n"
)


class Host:
    """A root folder with what a driver, GPUs and an image leave in it."""

    def __init__(self, root):
        self.root = root

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        return self

    def driver(self, version, line=CLOSED):
        return self.write("proc/driver/nvidia/version", line.format(version))

    def compatibility(self, version):
        folder = self.root / "usr/local/cuda-12.8/compat"
        self.write(folder / f"libcuda.so.{version}", "")
        (folder / "libcuda.so.1").symlink_to(f"libcuda.so.{version}")
        (self.root / "usr/local/cuda").symlink_to("cuda-12.8")
        return self

    @property
    def added(self):
        return driver.bridge(None, self.root)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def torch_for(tmp_path_factory, monkeypatch):
    """`torch_for("13.0")`: a torch of that CUDA, or "None", is what would be imported."""

    def make(cuda):
        folder = tmp_path_factory.mktemp("packages")
        (folder / "torch").mkdir()
        (folder / "torch/__init__.py").write_text("raise RuntimeError('not to be imported')")
        version = f"from typing import Optional\n__version__ = '2.14.1+x'\ncuda: Optional[str] = {cuda!r}\nhip = '6'\n"
        (folder / "torch/version.py").write_text(version.replace("'None'", "None"))
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "torch", raising=False)

    return make


@pytest.mark.parametrize("line", [CLOSED, OPEN])
@pytest.mark.parametrize("version", ["470.256.02", "550.163.01", "580.65"])
def test_the_driver_s_version_is_read_of_both_kinds(host, line, version):
    assert driver.read_driver(host.root) is None
    assert driver.read_driver(host.driver(version, line).root) == version


@pytest.mark.parametrize(
    ("cuda", "version", "compatibility", "bridged", "runs"),
    [
        ("12.8", "470.256.02", None, False, False),
        ("12.8", "470.256.02", "570.124.06", True, True),
        ("12.8", "525.60.13", "570.124.06", False, True),  # a minor version back: as it is
        ("12.8", "550.163.01", None, False, True),
        ("12.8", "580.65.06", "570.124.06", False, True),  # newer than the bridge, which would fail
        ("13.0", "550.163.01", None, False, False),
        ("13.0", "550.163.01", "580.65.06", True, True),
        ("13.0", "550.163.01", "570.124.06", False, False),  # a bridge that does not reach
        ("13.0", "580.65.06", "580.65.06", False, True),
        ("None", "470.256.02", "570.124.06", False, True),  # torch for the CPU
    ],
)
def test_a_driver_is_bridged_only_where_it_does_not_run_without(
    host, torch_for, cuda, version, compatibility, bridged, runs
):
    torch_for(cuda)
    host.driver(version)
    if compatibility:
        host.compatibility(compatibility)

    assert host.added == ({"LD_LIBRARY_PATH": str(host.root / "usr/local/cuda/compat")} if bridged else {})
    if runs:
        driver.check(host.root)
    else:
        with pytest.raises(
            driver.DriverTooOld, match=f"driver {version} is too old for this image's CUDA {cuda}"
        ):
            driver.check(host.root)


def test_the_bridge_comes_before_what_is_there(host, torch_for):
    torch_for("12.8")
    host.driver("470.256.02").compatibility("570.124.06")
    added = driver.bridge("/opt/other/lib:/lib", host.root)
    assert added == {"LD_LIBRARY_PATH": f"{host.root}/usr/local/cuda/compat:/opt/other/lib:/lib"}


@pytest.mark.parametrize(
    ("cuda", "needed", "host_image"),
    [
        ("12.8", "525.60", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("13.0", "580", "al2023-ami-sagemaker-inference-gpu-4-1"),
    ],
)
def test_the_refusal_names_the_host_image_to_set(host, torch_for, cuda, needed, host_image):
    torch_for(cuda)
    with pytest.raises(driver.DriverTooOld) as refusal:
        driver.check(host.driver("470.256.02").root)
    assert f"needs {needed} or newer: on an endpoint set InferenceAmiVersion={host_image}" in str(
        refusal.value
    )
    assert ("an image of CUDA 12" in str(refusal.value)) == (cuda == "13.0")


def test_a_host_without_a_driver_is_not_refused(host, torch_for):
    torch_for("13.0")
    driver.check(host.compatibility("580.65.06").root)
    assert host.added == {}
    assert driver.describe(host.root).startswith("torch 2.14.1, CUDA 13.0, no NVIDIA driver, ")


def test_the_line_names_versions_gpus_and_what_the_container_has(host, torch_for):
    torch_for("12.8")
    host.driver("470.256.02").compatibility("570.124.06")
    (host.root / "dev/shm").mkdir(parents=True)
    for index, model in enumerate(["Tesla T4", "NVIDIA A10G", "Tesla T4"]):
        host.write(
            f"proc/driver/nvidia/gpus/0000:00:{index:02}.0/information", f"Model: \t\t {model}\nIRQ: 9\n"
        )
    host.write("sys/fs/cgroup/memory.max", "6000000000\n").write("sys/fs/cgroup/cpu.max", "150000 100000\n")
    disk = os.statvfs(host.root)
    assert driver.describe(host.root, visible_gpus=2) == (
        "torch 2.14.1, CUDA 12.8, driver 470.256.02, bridged by 570.124.06, 2 x Tesla T4, 1 x NVIDIA A10G, "
        f"2 visible, {disk.f_blocks * disk.f_frsize / 1e6:.0f} MB of shared memory, at most 6.0 GB of memory, "
        f"the time of 1.5 of {len(os.sched_getaffinity(0))} processors"
    )


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": "max", "cpu.max": "max 100000"},
        {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"},
    ],
)
def test_without_limits_none_are_told(host, torch_for, files):
    torch_for("12.8")
    for path, text in {**files, "cpu/cpu.cfs_period_us": "100000"}.items():
        host.write(f"sys/fs/cgroup/{path}", text)
    processors = f"{len(os.sched_getaffinity(0))} processors"
    assert driver.describe(host.root) == f"torch 2.14.1, CUDA 12.8, no NVIDIA driver, {processors}"


def test_without_torch_nothing_is_said_of_cuda(host, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert driver.describe(host.root).startswith("no NVIDIA driver, ")
    driver.check(host.driver("470.256.02").root)


# through the programs


def start(program, host, tmp_path, **settings):
    """`program` on a machine whose driver is that of `host`: only the place to look at is another."""
    code = (
        "import runpy, sys; from pathlib import Path; import driver\n"
        "for name in ('describe', 'check'):\n"
        f"    getattr(driver, name).__defaults__ = (Path({str(host.root)!r}),)\n"
        "from training import environment\n"
        f"environment.visible_gpus.__defaults__ = (Path({str(host.root / 'dev')!r}),)\n"
        f"sys.argv = [{program!r}]\n"
        f"runpy.run_path({str(ROOT / 'container' / program)!r}, run_name='__main__')"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'container'}:{ROOT / 'tests/fakes'}",
        "MODEL_PACKAGE": "doubling",
        "GPU_METRICS": "off",
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        **settings,
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", ["train", "serve"])
def test_a_program_that_is_to_use_gpus_ends_before_any_work(program, host, tmp_path):
    host.driver("470.256.02").write("dev/nvidia0", "")
    ended = start(program, host, tmp_path, CUDA_VISIBLE_DEVICES="0")

    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert any("driver 470.256.02" in line and "processors" in line for line in lines)
    assert "InferenceAmiVersion=" in lines[-1]
    assert "Traceback" not in ended.stderr
    if program == "train":
        assert "InferenceAmiVersion=" in (tmp_path / "ml/output/failure").read_text()


def test_training_on_the_cpu_of_such_a_host_goes_on(host, tmp_path):
    host.driver("470.256.02").write("dev/nvidia0", "")
    ended = start("train", host, tmp_path, CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 0, ended.stderr
