"""From the driver's counters and bits to metrics: what rises, what falls, and what older drivers and GPUs lack."""

from collections.abc import Callable
from pathlib import Path

import pytest

import nvml
from running_agent import Agent, wait_until

Start = Callable[..., Agent]
NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, GPU_IS_LOST = 3, 4, 13, 15
# NVML's bits of the clock event reasons.
SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80
GPU_IDLE, SYNC_BOOST = 0x1, 0x10
OFTEN = "--interval-seconds=0.01"
"""So that the counters of errors, read with every 60th sample, are read each second."""


def of_host(agent: Agent, name: str) -> list[float]:
    found = [datum for datum in agent.data() if datum.name == name and "Host" in datum.dimensions]
    return [value for datum in found for value in datum.values]


def test_a_rising_counter_is_energy_and_one_that_begins_anew_is_not_known(start: Start, driver: Path) -> None:
    def is_read() -> bool:
        """Two lines more: whatever the counter is, it has been read since."""
        before = len(agent.lines())
        wait_until(lambda: len(agent.lines()) >= before + 4)
        return True

    nvml.turn(driver, {"gpus": 2, "0.energy": 5_000_000, "1.energy": 100_000})
    agent = start()
    for zero, one in ((5_061_000, 100_500), (1_000, 100_500), (3_000, 100_500)):
        assert is_read()
        nvml.turn(driver, {"gpus": 2, "0.energy": zero, "1.energy": one})
    assert is_read()
    agent.finish()
    assert sum(of_host(agent, "GpuEnergyJoules")) == pytest.approx(61 + 0.5 + 2)
    assert min(of_host(agent, "GpuEnergyJoules")) >= 0


@pytest.mark.parametrize(
    ("reasons", "throttled", "capped"),
    [
        (0, 0, 0),
        (GPU_IDLE | SYNC_BOOST, 0, 0),
        (SW_POWER_CAP, 0, 100),
        (HW_SLOWDOWN, 100, 0),
        (SW_THERMAL, 100, 0),
        (HW_THERMAL, 100, 0),
        (HW_POWER_BRAKE | SW_POWER_CAP, 100, 100),
    ],
)
def test_the_bits_that_slow_down_and_those_of_full_load(
    start: Start, driver: Path, reasons: int, throttled: int, capped: int
) -> None:
    nvml.turn(driver, {"0.reasons": reasons})
    agent = start()
    wait_until(agent.lines)
    agent.finish()
    assert set(agent.values("GpuThrottledPercent", 0)) == {throttled}
    assert set(agent.values("GpuPowerCappedPercent", 0)) == {capped}


def test_new_errors_are_counted_and_old_ones_are_not(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.ecc": 1000, "0.remapped": 5})
    agent = start(OFTEN)
    wait_until(lambda: agent.values("GpuErrors", 0))
    nvml.turn(driver, {"0.ecc": 1002, "0.remapped": 6})
    wait_until(lambda: sum(agent.values("GpuErrors", 0)) == 3)
    nvml.turn(driver, {"0.ecc": 1002, "0.remapped": 6, "0.remap_failed": 1})
    wait_until(lambda: sum(agent.values("GpuErrors", 0)) == 4)
    # The volatile count begins anew when the driver is loaded again: no error, and not minus 1002.
    nvml.turn(driver, {"0.ecc": 0, "0.remapped": 6, "0.remap_failed": 1})
    count = len(agent.values("GpuErrors", 0))
    wait_until(lambda: len(agent.values("GpuErrors", 0)) >= count + 2)
    agent.finish()
    assert sum(agent.values("GpuErrors", 0)) == 4
    assert agent.messages() == []


def test_before_ampere_pages_are_retired_and_not_rows_remapped(start: Start, driver: Path) -> None:
    turing = {"0.remapped.error": NOT_SUPPORTED, "0.ecc.error": NOT_SUPPORTED}
    nvml.turn(driver, {**turing, "0.retired": 4})
    agent = start(OFTEN)
    wait_until(lambda: agent.values("GpuErrors", 0))
    nvml.turn(driver, {**turing, "0.retired": 6})
    wait_until(lambda: sum(agent.values("GpuErrors", 0)) == 2)
    agent.finish()
    (message,) = agent.messages()
    assert "GPU 0 does not report its memory errors" in message


OLD = {
    "nvmlDeviceGetMemoryInfo_v2": "",
    "nvmlDeviceGetCurrentClocksEventReasons": "",
    "nvmlDeviceGetMigMode": "",
    "nvmlDeviceGetRemappedRows": "",
    "nvmlGpmQueryDeviceSupport": "",
    "nvmlDeviceGetTotalEnergyConsumption": "does not report its energy",
    "nvmlEventSetWait_v2": "(XIDs) are no longer heard",
    "nvmlEventSetCreate": "(XIDs) are not heard",
    "nvmlDeviceGetUtilizationRates": "does not report its utilization",
    "nvmlDeviceGetTotalEccErrors": "does not report its memory errors",
}
"""Symbols that a driver may lack, and what is said where there is no other way to the figure."""


@pytest.mark.parametrize("symbol", OLD)
def test_a_driver_without_a_symbol_tells_the_rest(start: Start, driver: Path, symbol: str) -> None:
    nvml.build(driver, [symbol])
    nvml.turn(driver, {"0.reasons": SW_POWER_CAP, "0.memory_used": 8 << 30, "0.memory_reserved": 0})
    agent = start()
    wait_until(lambda: agent.values("GpuPowerWatts", 0))
    agent.finish()
    assert set(agent.values("GpuPowerCappedPercent", 0)) == {100}
    assert set(agent.values("GpuMemoryUsedPercent", 0)) == {50}
    if symbol != "nvmlDeviceGetUtilizationRates":
        assert set(agent.values("GpuUtilization", 0)) == {50}
    if symbol != "nvmlDeviceGetTotalEnergyConsumption":
        assert of_host(agent, "GpuEnergyJoules")
    said = agent.messages()
    assert len(said) == bool(OLD[symbol])
    assert OLD[symbol] in "".join(said)


def test_a_driver_without_any_of_them(start: Start, driver: Path) -> None:
    """As before 470, with a GPU before Volta; the older call counts the driver's own memory as used."""
    nvml.build(driver, sorted(OLD.keys() - {"nvmlDeviceGetUtilizationRates"}))
    nvml.turn(driver, {"0.memory_used": 6 << 30, "0.memory_reserved": 2 << 30, "0.retired": 1})
    agent = start(OFTEN)
    wait_until(lambda: agent.values("GpuErrors", 0))
    agent.finish()
    assert set(agent.values("GpuMemoryUsedPercent", 0)) == {50}
    assert set(agent.values("GpuThrottledPercent", 0)) == {0}
    assert of_host(agent, "GpuEnergyJoules") == []


def test_a_driver_that_refuses_the_newer_call_is_asked_the_older_one(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.reasons.error": FUNCTION_NOT_FOUND, "0.reasons": HW_SLOWDOWN})
    agent = start()
    wait_until(agent.lines)
    agent.finish()
    assert set(agent.values("GpuThrottledPercent", 0)) == {100}
    assert agent.messages() == []


def test_a_figure_without_permission_is_asked_for_once(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.power.error": NO_PERMISSION})
    agent = start()
    wait_until(agent.messages)
    nvml.turn(driver, {})
    wait_until(lambda: len(agent.values("GpuUtilization", 0)) > 20)
    agent.finish()
    assert agent.values("GpuPowerWatts", 0) == []
    (message,) = agent.messages()
    assert "does not report its power (Insufficient Permissions): left out" in message


def test_a_gpu_that_was_lost_before_the_start(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"gpus": 2, "0.open.error": GPU_IS_LOST})
    agent = start()
    wait_until(lambda: len(agent.values("GpuUtilization", 1)) > 20)
    agent.finish()
    assert agent.values("GpuLost", 0) == [1]
    assert agent.values("GpuLost", 1) == []
    (message,) = agent.messages()
    assert "GPU 0 is lost" in message


def test_nothing_but_lost_gpus(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.open.error": GPU_IS_LOST})
    agent = start()
    wait_until(lambda: agent.values("GpuLost", 0) == [1])
    assert agent.process.poll() is None
    assert agent.finish() == 0
