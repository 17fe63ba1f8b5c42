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
    wait_until(lambda: agent.values("GpuSmActivePercent", 0) and agent.values("GpuUtilization", 1))
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


def test_counters_that_are_refused_later_are_asked_for_no_more(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.gpm": 1, SM: 61})
    agent = start()
    wait_until(lambda: agent.values("GpuSmActivePercent", 0))
    nvml.turn(driver, {"0.gpm": 1, SM: 62, "0.gpm.error": NO_PERMISSION})
    wait_until(agent.messages)
    nvml.turn(driver, {"0.gpm": 1, SM: 63, "0.utilization": 99})
    wait_until(lambda: agent.values("GpuUtilization", 0).count(99) > 20)
    agent.finish()
    assert not {62, 63} & set(agent.values("GpuSmActivePercent", 0))
    (message,) = agent.messages()
    assert "does not report its activity (Insufficient Permissions): left out" in message


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


def test_a_gpu_that_refuses_events_silences_no_other(start: Start, driver: Path) -> None:
    knobs = {"gpus": 3, "0.events.error": NOT_SUPPORTED}
    nvml.turn(driver, knobs)
    agent = start()
    wait_until(agent.lines)
    nvml.turn(driver, {**knobs, "xid.serial": 1, "xid.gpu": 2})
    wait_until(lambda: agent.values("GpuXidErrors", 2))
    agent.finish()
    refused, heard = agent.messages()
    assert "GPU 0: the driver's own errors (XIDs) are not heard" in refused
    assert "GPU 2: the driver reports XID 79" in heard


def test_each_mig_device_tells_its_memory_and_its_activity(start: Start, driver: Path) -> None:
    """Of GPU 0 two devices are seen, of the other, which is whole, itself."""
    knobs = {
        "gpus": 2, "0.mig": 2, "0.gpm": 1, "0.power": 200_000, "0.energy": 5_000, "0.memory_total": 80 << 30,
        "0.mig.0.memory_used": 5 << 30, "0.mig.0.memory_total": 20 << 30, "0.mig.0.gpm.2": 30,
        "0.mig.2.memory_used": 9 << 30, "0.mig.2.memory_total": 10 << 30, "0.mig.2.gpm.2": 70,
        "1.utilization": 88, "1.memory_used": 0,
    }  # fmt: skip
    nvml.turn(driver, knobs)
    agent = start()
    wait_until(lambda: agent.values("GpuSmActivePercent", 1))
    nvml.turn(driver, {**knobs, "xid.serial": 1, "xid.gpu": 1})
    wait_until(lambda: agent.values("GpuXidErrors", 2))
    agent.finish()
    told = {
        name: [set(agent.values(name, gpu)) for gpu in range(4)]
        for name in ("GpuMemoryUsedPercent", "GpuSmActivePercent", "GpuUtilization", "GpuPowerWatts")
    }
    assert told == {
        "GpuMemoryUsedPercent": [{25}, {90}, {0}, set()],
        "GpuSmActivePercent": [{30}, {70}, set(), set()],
        "GpuUtilization": [set(), set(), {88}, set()],
        "GpuPowerWatts": [{200}, set(), {75}, set()],  # of a board once, else energy would count twice
    }
    assert [message.partition("GPU ")[2][:39] for message in agent.messages()] == [
        "0 does not report its utilization (Not ",
        "2: the driver reports XID 79 (NVIDIA's ",
    ]


def test_mig_mode_without_a_device_that_is_seen(start: Start, driver: Path) -> None:
    """The GPU itself is all that the container was given: it tells what it can."""
    nvml.build(driver, ["nvmlDeviceGetMigDeviceHandleByIndex"])
    nvml.turn(driver, {"0.mig": 1, "0.memory_used": 4 << 30})
    agent = start()
    wait_until(lambda: agent.values("GpuPowerWatts", 0))
    agent.finish()
    assert set(agent.values("GpuMemoryUsedPercent", 0)) == {25}


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
