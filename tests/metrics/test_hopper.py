"""What only some GPUs and drivers tell: activity counters, the driver's own errors, and MIG's gaps."""

from collections.abc import Callable
from pathlib import Path

import nvml
from running_agent import Agent, wait_until

Start = Callable[..., Agent]
SM, TENSOR, DRAM, RECEIVED, SENT = (f"0.gpm.{number}" for number in (2, 5, 10, 60, 61))
NOT_SUPPORTED, NO_PERMISSION = 3, 4


def test_activity_counters_where_the_gpu_has_them(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"gpus": 2, "0.gpm": 1, SM: 61, TENSOR: 37, DRAM: 44, RECEIVED: 1200})
    agent = start()
    wait_until(lambda: agent.values("GpuUtilization", 1))
    agent.finish()
    for name, value in (
        ("GpuSmActivePercent", 61),
        ("GpuTensorActivePercent", 37),
        ("GpuMemoryBandwidthPercent", 44),
        ("GpuNvlinkReceivedMebibytesPerSecond", 1200),
    ):
        assert set(agent.values(name, 0)) == {value}
        assert agent.values(name, 1) == []  # it has none
    assert agent.values("GpuNvlinkSentMebibytesPerSecond", 0) == []
    assert agent.messages() == []


def test_counters_that_the_container_may_not_read_are_left_out(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.gpm": 1, SM: 61, "0.gpm.error": NO_PERMISSION})
    agent = start()
    wait_until(lambda: len(agent.values("GpuUtilization", 0)) > 5)
    agent.finish()
    assert agent.values("GpuSmActivePercent", 0) == []
    (message,) = agent.messages()
    assert "GPU 0 does not show its activity counters" in message


def test_the_drivers_own_errors_are_counted_and_named(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"gpus": 2})
    agent = start()
    wait_until(agent.lines)
    nvml.turn(driver, {"gpus": 2, "xid.serial": 1, "xid.gpu": 1, "xid": 79})
    wait_until(lambda: agent.values("GpuXidErrors", 1))
    nvml.turn(driver, {"gpus": 2, "xid.serial": 2, "xid.gpu": 1, "xid": 48})
    wait_until(lambda: len(agent.values("GpuXidErrors", 1)) == 2)
    agent.finish()
    assert agent.values("GpuXidErrors", 1) == [1, 1]
    assert agent.values("GpuXidErrors", 0) == []
    assert [message.partition("GPU 1: ")[2][:31] for message in agent.messages()] == [
        "the driver reports XID 79 (NVID",
        "the driver reports XID 48 (NVID",
    ]


def test_without_events_everything_else_goes_on(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"events.error": NOT_SUPPORTED})
    agent = start()
    wait_until(lambda: agent.values("GpuUtilization", 0))
    agent.finish()
    (message,) = agent.messages()
    assert "(XIDs) are not heard" in message


def test_a_gpu_in_mig_mode_tells_no_utilisation_and_the_rest(start: Start, driver: Path) -> None:
    mig = {"0.utilization.error": NOT_SUPPORTED, "0.temperature": 51, "0.memory_used": 8 << 30}
    nvml.turn(driver, {"gpus": 2, **mig})
    agent = start()
    wait_until(lambda: agent.values("GpuMemoryUsedPercent", 0))
    agent.finish()
    assert agent.values("GpuUtilization", 0) == []
    assert set(agent.values("GpuMemoryUsedPercent", 0)) == {50}
    assert set(agent.values("GpuUtilization", 1)) == {50}
    assert len(agent.messages()) == 1
