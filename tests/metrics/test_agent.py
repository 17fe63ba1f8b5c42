"""The agent's process: what it publishes, and how little can disturb it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import emf_validator
import nvml
from metrics.work import WorkSender
from running_agent import Agent, wait_until

Start = Callable[..., Agent]

KNOBS = {
    "gpus": 2,
    "0.utilization": 87,
    "0.memory_used": 30_000_000_000,
    "0.memory_total": 80_000_000_000,
    "0.power": 345_678,
    "0.temperature": 61,
    "1.utilization": 0,
    "1.memory_used": 0,
    "1.memory_total": 80_000_000_000,
    "1.power": 50_000,
    "1.temperature": 33,
}


def test_published_values_are_the_drivers(start: Start, driver: Path) -> None:
    nvml.turn(driver, KNOBS)
    agent = start()
    wait_until(lambda: len(agent.lines()) >= 4)
    assert agent.finish() == 0
    for gpu, figures in enumerate([(87, 37.5, 345.7, 61), (0, 0, 50, 33)]):
        names = ("GpuUtilization", "GpuMemoryUsedPercent", "GpuPowerWatts", "GpuTemperatureCelsius")
        for name, figure in zip(names, figures, strict=True):
            assert set(agent.values(name, gpu)) == {figure}
            # The temperature is read with every tenth sample.
            assert len(agent.values(name, gpu)) >= (2 if name == "GpuTemperatureCelsius" else 10)
    assert {tuple(datum.dimensions.items()) for datum in agent.data()} == {
        (("Project", "normals"), ("Phase", "training")),
        (("Project", "normals"), ("JobName", "job=1"), ("Host", "algo-1")),
    }
    means = [
        value for datum in agent.data() if datum.name == "GpuUtilizationSpread" for value in datum.values
    ]
    assert set(means) == {87}


def test_a_slow_driver_does_not_slow_the_schedule(start: Start, driver: Path) -> None:
    """Four calls of 5 ms each in an interval of 50 ms: still 20 samples a second, not 14."""
    nvml.turn(driver, {"hang_milliseconds": 5})
    agent = start("--publish-seconds=1")

    def of_gpus() -> list[dict[str, Any]]:
        return [document for document in map(json.loads, agent.lines()) if "Gpu" in document]

    def samples_per_line() -> list[int]:
        return [len(document["GpuUtilization"]) for document in of_gpus()]

    # On a busy machine some seconds miss samples; the best one shows the schedule.
    wait_until(lambda: max(samples_per_line(), default=0) >= 18)
    wait_until(lambda: len(of_gpus()) >= 3)
    assert max(samples_per_line()) <= 22
    starts = [document["_aws"]["Timestamp"] for document in of_gpus()]
    assert [start - starts[0] for start in starts] == [1000 * number for number in range(len(starts))]
    assert starts[0] % 1000 == 0


def test_what_overran_is_skipped_not_made_up_for(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"hang_milliseconds": 30})
    agent = start("--publish-seconds=1e6")
    time.sleep(2)
    nvml.turn(driver, {})
    recovered = time.monotonic()
    time.sleep(0.5)
    agent.finish()
    # 120 ms of calls for each sample, then 20 a second; 40 more would be made up for.
    assert len(agent.values("GpuUtilization", 0)) <= 2 / 0.12 + (time.monotonic() - recovered) * 20 + 3


def test_sigterm_publishes_the_partial_period_at_once(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    agent = start("--publish-seconds=1e6", f"--snapshot={snapshot}")
    wait_until(snapshot.exists)
    nvml.turn(driver, {"0.utilization": 77})
    wait_until(lambda: "0.77" in snapshot.read_text())
    assert agent.lines() == []
    begun = time.monotonic()
    assert agent.finish() == 0
    assert time.monotonic() - begun < 10
    assert set(agent.values("GpuUtilization", 0)) == {50, 77}


def test_nvml_is_initialised_once(start: Start, driver: Path) -> None:
    agent = start()
    wait_until(lambda: len(agent.lines()) >= 2)
    agent.finish()
    assert (driver / "initialised").read_text() == f"{agent.process.pid}\n"


def no_library(driver: Path) -> str:
    (driver / "libnvidia-ml.so.1").write_bytes(b"")
    return "NVML Shared Library Not Found"


def no_driver(driver: Path) -> str:
    nvml.turn(driver, {"init.error": 9})
    return "Driver Not Loaded"


def no_gpu(driver: Path) -> str:
    nvml.turn(driver, {"gpus": 0})
    return "no GPU"


def no_permission(driver: Path) -> str:
    nvml.turn(driver, {"gpus": 2, "0.open.error": 4, "1.open.error": 4})
    return "no GPU"


@pytest.mark.parametrize("nothing", [no_library, no_driver, no_gpu, no_permission])
def test_without_a_gpu_it_says_so_and_idles(
    start: Start, driver: Path, nothing: Callable[[Path], str]
) -> None:
    reason = nothing(driver)
    agent = start(f"--snapshot={driver / 'gpus.prom'}")
    wait_until(agent.messages)
    time.sleep(0.7)
    assert agent.process.poll() is None
    begun = time.monotonic()
    assert agent.finish() == 0
    assert time.monotonic() - begun < 10
    said = [message for message in agent.messages() if "no GPU is sampled" in message]
    assert len(said) == 1
    assert reason in said[0]
    assert len(agent.messages()) == (3 if nothing is no_permission else 1)
    assert agent.lines() == []
    assert not (driver / "gpus.prom").exists()


def test_without_nvidia_ml_py_the_work_is_published_all_the_same(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pynvml.py").write_text("raise ModuleNotFoundError('No module\\nnamed pynvml')")
    agent = start("--work-address=no-library", pythonpath=[tmp_path / "broken"])
    wait_until(agent.messages)
    with closing(WorkSender("no-library")) as sender:
        wait_until(lambda: sender.send(requests=1) or agent.lines())
    assert agent.finish() == 0
    assert {datum.name for datum in agent.data()} == {"Requests"}
    (message,) = agent.messages()
    assert "no GPU is sampled: No module named pynvml" in message


def test_sampling_that_breaks_ends_nothing_else(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pynvml.py").write_text("raise RuntimeError('of another\\nversion')")
    agent = start("--work-address=broken-library", pythonpath=[tmp_path / "broken"])
    wait_until(agent.messages)
    with closing(WorkSender("broken-library")) as sender:
        wait_until(lambda: sender.send(requests=1) or agent.lines())
    assert agent.finish() == 0
    (message,) = agent.messages()
    assert "no GPU is sampled from here on: RuntimeError: of another version" in message


def test_an_unsupported_figure_is_left_out_for_good(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.power.error": 3, "0.memory.error": 4})
    agent = start()
    wait_until(lambda: len(agent.messages()) >= 2)
    nvml.turn(driver, {})
    wait_until(lambda: len(agent.lines()) >= 3)
    agent.finish()
    assert not {"GpuPowerWatts", "GpuMemoryUsedPercent"} & {datum.name for datum in agent.data()}
    assert agent.values("GpuUtilization", 0)
    assert [message.split("GPU 0 ")[1] for message in agent.messages()] == [
        "does not report its memory (Insufficient Permissions): left out",
        "does not report its power (Not Supported): left out",
    ]


def test_a_passing_error_costs_its_samples_only(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"0.utilization.error": 999})
    agent = start()
    wait_until(lambda: agent.values("GpuPowerWatts", 0))
    nvml.turn(driver, {"0.utilization": 12})
    wait_until(lambda: agent.values("GpuUtilization", 0))
    agent.finish()
    utilization, power = agent.values("GpuUtilization", 0), agent.values("GpuPowerWatts", 0)
    assert set(utilization) == {12}
    assert 0 < len(utilization) < len(power)
    assert len(agent.messages()) == 1


def test_a_lost_gpu_is_reported_once_and_the_others_go_on(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    nvml.turn(driver, {"gpus": 2})
    agent = start(f"--snapshot={snapshot}")
    wait_until(lambda: agent.values("GpuUtilization", 1))
    nvml.turn(driver, {"gpus": 2, "1.error": 15, "0.utilization": 99})
    wait_until(agent.messages)
    nvml.turn(driver, {"gpus": 2, "1.utilization": 98, "0.utilization": 99})
    already = len(agent.values("GpuUtilization", 0))
    wait_until(lambda: len(agent.values("GpuUtilization", 0)) > already + 20)
    of_lost = [line.split("{")[0] for line in snapshot.read_text().splitlines() if 'gpu="1"' in line]
    assert "gpu_lost" in of_lost
    assert all(name == "gpu_lost" or name.endswith("_total") for name in of_lost)
    agent.finish()
    assert agent.values("GpuLost", 1) == [1]
    assert agent.values("GpuLost", 0) == []
    assert 98 not in agent.values("GpuUtilization", 1)
    assert agent.values("GpuUtilization", 0)[-1] == 99
    (message,) = agent.messages()
    assert "GPU 1 is lost" in message


def test_with_every_gpu_lost_it_idles(start: Start, driver: Path) -> None:
    agent = start()
    wait_until(agent.lines)
    nvml.turn(driver, {"0.error": 15})
    wait_until(lambda: agent.values("GpuLost", 0))
    assert agent.process.poll() is None
    assert agent.finish() == 0


def test_a_hung_driver_keeps_nothing_from_ending(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    nvml.turn(driver, {"0.utilization": 44})
    agent = start("--publish-seconds=1e6", f"--snapshot={snapshot}")
    wait_until(snapshot.exists)
    nvml.turn(driver, {"hang_milliseconds": 60_000})
    wait_until(agent.messages)
    assert "has not answered for 1.5 s" in agent.messages()[0]
    assert not snapshot.exists()
    time.sleep(0.6)
    begun = time.monotonic()
    assert agent.finish() == 0
    assert time.monotonic() - begun < 10
    assert set(agent.values("GpuUtilization", 0)) == {44}
    assert len(agent.messages()) == 1


def test_after_a_hang_it_goes_on(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    nvml.turn(driver, {"hang_milliseconds": 1800})
    agent = start(f"--snapshot={snapshot}")
    wait_until(agent.messages)
    nvml.turn(driver, {"0.utilization": 55})
    wait_until(snapshot.exists)
    wait_until(lambda: 55 in agent.values("GpuUtilization", 0))


def test_sigint_is_for_the_job(start: Start) -> None:
    agent = start()
    wait_until(agent.lines)
    agent.process.send_signal(signal.SIGINT)
    lines = len(agent.lines())
    wait_until(lambda: len(agent.lines()) > lines)
    assert agent.finish() == 0


def test_it_stands_behind_the_job_for_the_processor(start: Start) -> None:
    agent = start()
    wait_until(agent.lines)
    for thread in Path(f"/proc/{agent.process.pid}/task").iterdir():
        assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) == min(
            19, os.getpriority(os.PRIO_PROCESS, 0) + 10
        )


def test_the_snapshot_is_whole_at_every_moment(start: Start, driver: Path) -> None:
    snapshot = driver / "gpus.prom"
    nvml.turn(driver, {**KNOBS, "gpus": 8})
    agent = start(f"--snapshot={snapshot}")
    wait_until(snapshot.exists)
    versions: set[str] = set()
    deadline = time.monotonic() + 60
    while len(versions) < 30 and time.monotonic() < deadline:
        nvml.turn(driver, {**KNOBS, "gpus": 8, "0.utilization": len(versions)})
        text = snapshot.read_text()
        versions.add(text)
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        by_gpu = Counter(sample.labels["gpu"] for sample in samples)
        assert by_gpu.keys() == set("01234567")
        assert len(set(by_gpu.values())) == 1
        time.sleep(0.02)  # the agent stands behind whoever asks for the processor
    assert len(versions) == 30
    agent.finish()
    assert list(driver.glob("gpus.prom*")) == []


def test_an_unwritable_snapshot_costs_the_snapshot_only(start: Start, driver: Path) -> None:
    agent = start(f"--snapshot={driver / 'missing' / 'gpus.prom'}")
    wait_until(agent.lines)
    agent.finish()
    (message,) = agent.messages()
    assert "missing/gpus.prom" in message


def test_a_dimension_that_cloudwatch_refuses_ends_it_in_one_line(start: Start) -> None:
    agent = start("--dimension=Endpoint=")
    assert agent.process.wait(5) == 0
    (message,) = agent.messages()
    assert "dimension 'Endpoint' = ''" in message


def test_a_reader_that_goes_away_ends_it_in_one_line(start: Start) -> None:
    read_end, write_end = os.pipe()
    agent = start(out=write_end)
    os.close(write_end)
    os.close(read_end)
    assert agent.process.wait(5) == 0
    (message,) = agent.messages()
    assert "BrokenPipeError" in message


WRITER = """
import os
for number in range(3000):
    os.write(1, b"the job's own line %6d %s\\n" % (number, b"-" * (number % 900)))
"""


def test_lines_stay_whole_beside_another_writer_and_a_slow_reader(start: Start, driver: Path) -> None:
    nvml.turn(driver, {"gpus": 4})
    read_end, write_end = os.pipe()
    # Long dimensions, so that lines reach the limit of what a pipe takes in one piece.
    long = [f"--dimension=Long{number}={'x' * 1000}" for number in range(3)]
    agent = start("--interval-seconds=0.005", "--publish-seconds=0.5", *long, out=write_end)
    writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=write_end)
    os.close(write_end)
    received = b""
    while piece := os.read(read_end, 3000):
        received += piece
        time.sleep(0.003)
        if writer.poll() is not None and agent.process.poll() is None:
            agent.process.terminate()
    os.close(read_end)
    lines = received.splitlines(keepends=True)
    own = [line for line in lines if line.startswith(b"{")]
    assert len(own) >= 10
    assert max(map(len, own)) > 3500
    for line in own:
        emf_validator.read(line)
    others = [line for line in lines if not line.startswith(b"{")]
    assert others == [
        b"the job's own line %6d %s\n" % (number, b"-" * (number % 900)) for number in range(3000)
    ]


@pytest.mark.parametrize("sink", ["emf", "putmetricdata"])
def test_it_takes_little_memory_and_no_torch(start: Start, driver: Path, sink: str) -> None:
    nvml.turn(driver, {"gpus": 8})
    nowhere = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    agent = start(f"--sink={sink}", "--region=eu-west-1", environ=nowhere)
    wait_until(agent.messages if sink == "putmetricdata" else agent.lines)
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    assert int(kilobytes) < 60_000
    assert "libtorch" not in Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert agent.finish() == 0


def test_eight_gpus_take_little_of_a_processor(start: Start, driver: Path) -> None:
    """A sample a second, as in a job. `make bench-metrics` says how little; here it is but a bound."""
    nvml.turn(driver, {"gpus": 8} | {f"{gpu}.gpm": 1 for gpu in range(8)})
    snapshot = driver / "gpus.prom"
    agent = start("--interval-seconds=1", "--publish-seconds=2", f"--snapshot={snapshot}")
    wait_until(agent.lines)

    def cpu_seconds() -> float:
        fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, begun = cpu_seconds(), time.monotonic()
    time.sleep(4)
    assert cpu_seconds() - before < 0.1 * (time.monotonic() - begun)
