"""The driver's costs are told for every call of the agent; on a driver that pretends, as there may be no GPU here."""

import os
import subprocess
import sys
from pathlib import Path

import nvml

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark_nvml.py"


def run(*words, **environ):
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120)


def test_every_call_has_its_microseconds_and_every_gpu_its_values(tmp_path):
    nvml.build(tmp_path / "compiler")  # or skip
    ended = run("--fake", "--repeat=20")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    told = {line[:32].strip(): line[32:].split() for line in lines}
    calls = "utilization", "memory", "power", "energy", "clock reasons", "replaced memory"
    for name in (*calls, "a whole sample of 2 GPU(s)"):
        median, p99 = told[name][:2]
        assert 0 < float(median) <= float(p99)
    assert any("CAP_SYS_ADMIN: {'sm_active_percent': 61.0}" in line for line in lines)
    assert "1: 7, 4096, 16384, 75.0, 40" in lines


def test_a_call_that_is_refused_is_told_as_refused(tmp_path):
    driver = nvml.build(tmp_path / "driver", ["nvmlDeviceGetTotalEnergyConsumption"])
    ended = run("--repeat=5", LD_LIBRARY_PATH=str(driver))
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("energy ")]
    assert "Function Not Found" in line
    assert "CAP_SYS_ADMIN: this GPU has none" in ended.stdout


def test_without_a_driver_it_says_so(tmp_path):
    driver = nvml.build(tmp_path / "driver")
    nvml.turn(driver, {"init.error": 9})
    ended = run(LD_LIBRARY_PATH=str(driver))
    assert ended.returncode == 1
    assert "no driver here" in ended.stderr
