#!/usr/bin/env python3
"""What each question to the driver costs, as the metrics agent asks it, and whether the answers are right.

benchmark_nvml.py           on this machine's GPUs: microseconds of each call, the activity counters (GPM) with
                            the privileges of this process and without CAP_SYS_ADMIN, values beside nvidia-smi's
benchmark_nvml.py --fake    the same on a driver library that only pretends, to see that all of it runs
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests" / "fakes")]

from metrics import readings  # noqa: E402
from metrics.gpm import SHORTEST_SECONDS, Gpm  # noqa: E402
from metrics.gpus import open_gpus  # noqa: E402

CAP_SYS_ADMIN = 21
QUERY = "utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--fake", action="store_true", help="on a driver library that pretends to have two GPUs"
    )
    parser.add_argument("--repeat", type=int, default=500, help="times that each call is made")
    parser.add_argument(
        "--only-gpm", action="store_true", help="say only whether the activity counters answer"
    )
    options = parser.parse_args()
    if options.fake:
        sys.exit(on_a_fake_driver(options.repeat))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        sys.exit(f"benchmark_nvml: no driver here ({error}); --fake runs without one")
    boards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    if not boards:
        sys.exit("benchmark_nvml: the driver shows no GPU")
    if options.only_gpm:
        print(f"GPM {'with' if has_sys_admin() else 'without'} CAP_SYS_ADMIN: {gpm(boards[0])}")
        return
    tell_costs(boards, options.repeat)
    tell_gpm(boards)
    tell_values(boards)


def on_a_fake_driver(repeat: int) -> int:
    """This script once more, in a process that finds the fake library first."""
    import nvml

    with tempfile.TemporaryDirectory() as folder:
        driver = nvml.build(Path(folder))
        nvml.turn(driver, {"gpus": 2, "0.gpm": 1, "0.gpm.2": 61, "1.utilization": 7})
        command = [sys.executable, __file__, f"--repeat={repeat}"]
        return subprocess.run(command, env={**os.environ, "LD_LIBRARY_PATH": str(driver)}).returncode


def tell_costs(boards: list[Any], repeat: int) -> None:
    board = boards[0]
    energy, power = pynvml.nvmlDeviceGetTotalEnergyConsumption, pynvml.nvmlDeviceGetPowerUsage
    temperature = pynvml.nvmlDeviceGetTemperature
    calls: dict[str, Callable[[], Any]] = {
        "utilization": lambda: f"{pynvml.nvmlDeviceGetUtilizationRates(board).gpu} %",
        "memory": lambda: f"{readings.memory(board).used} bytes",
        "power": lambda: f"{power(board)} mW",
        "energy": lambda: f"{energy(board)} mJ",
        "clock reasons": lambda: hex(readings.clock_reasons(board)),
        "temperature": lambda: f"{temperature(board, pynvml.NVML_TEMPERATURE_GPU)} degrees Celsius",
        "memory errors": lambda: readings.uncorrected_errors(board),
        "replaced memory": lambda: readings.replaced_memory(board),
        "MIG devices": lambda: len(list(readings.mig_devices(board))),
    }
    print(f"{'call, of GPU 0':32}{'median':>10}{'p99':>10}  microseconds, {repeat} times")
    for name, call in calls.items():
        tell_cost(name, call, repeat)
    gpus, number = open_gpus(), iter(range(1, 10**9))
    tell_cost(
        f"a whole sample of {len(gpus)} GPU(s)",
        lambda: [gpu.sample(next(number)) for gpu in gpus] and "",
        repeat,
    )


def tell_cost(name: str, call: Callable[[], Any], repeat: int) -> None:
    took = []
    try:
        for _ in range(repeat):
            began = time.perf_counter()
            answer = call()
            took.append(1e6 * (time.perf_counter() - began))
    except pynvml.NVMLError as error:
        print(f"{name:32}{'':20}  {error}")
        return
    took.sort()
    print(f"{name:32}{took[len(took) // 2]:10.1f}{took[int(0.99 * len(took))]:10.1f}  {answer}")


def tell_gpm(boards: list[Any]) -> None:
    """With what this process may do, and in another one that gave CAP_SYS_ADMIN away."""
    allowed = has_sys_admin()
    print(f"GPM {'with' if allowed else 'without'} CAP_SYS_ADMIN: {gpm(boards[0])}", flush=True)
    if allowed and shutil.which("setpriv"):
        again = [sys.executable, __file__, "--only-gpm"]
        subprocess.run(["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *again], check=False)


def gpm(board: Any) -> str:
    """The counters of a moment, or why there are none."""
    try:
        if not pynvml.nvmlGpmQueryDeviceSupport(board).isSupportedDevice:
            return "this GPU has none (they come with Hopper)"
        counters = Gpm(0, board)
        time.sleep(1.5 * SHORTEST_SECONDS)
        began = time.perf_counter()
        told = counters.read()
    except pynvml.NVMLError as error:
        return f"refused ({error})"
    return (
        f"{told} in {1e6 * (time.perf_counter() - began):.0f} microseconds"
        if told
        else "refused, or nothing told"
    )


def has_sys_admin() -> bool:
    status = Path("/proc/self/status").read_text().splitlines()
    (effective,) = [line.split()[1] for line in status if line.startswith("CapEff:")]
    return bool(int(effective, 16) >> CAP_SYS_ADMIN & 1)


def tell_values(boards: list[Any]) -> None:
    """The same figures through NVML and from nvidia-smi, one right after the other."""
    print(f"GPU: {QUERY} (MiB, W)")
    for index, board in enumerate(boards):
        memory = readings.memory(board)
        ours = (
            pynvml.nvmlDeviceGetUtilizationRates(board).gpu,
            memory.used >> 20,
            memory.total >> 20,
            pynvml.nvmlDeviceGetPowerUsage(board) / 1000,
            pynvml.nvmlDeviceGetTemperature(board, pynvml.NVML_TEMPERATURE_GPU),
        )
        print(f"{index}: {', '.join(map(str, ours))}", flush=True)
    if shutil.which("nvidia-smi") is None:
        print("nvidia-smi: not on this machine")
        return
    subprocess.run(["nvidia-smi", f"--query-gpu=index,{QUERY}", "--format=csv,noheader,nounits"], check=False)


if __name__ == "__main__":
    main()
