"""What is said of a whole job: figures worked out by hand, and the sentence that names the bottleneck."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nvml
from metrics.sample import GpuSample
from metrics.verdict import JobTotals, told, verdict
from metrics.work import WorkSender
from running_agent import Agent, wait_until

Start = Callable[..., Agent]


def test_the_figures_of_a_job() -> None:
    totals = JobTotals(num_hosts=2, usd_per_hour=3.6)
    for utilization in (10, 20, 20, 30, 90, 90, 90, 90, 90, 90):
        totals.add(
            [
                GpuSample(
                    0,
                    utilization,
                    memory_used_bytes=utilization * 10**8,
                    memory_total_bytes=24 * 10**9,
                    energy_joules=250,
                    throttled=utilization == 10,
                    errors=1 if utilization == 30 else None,
                )
            ]
        )
    totals.add_work({"images_per_second": 100, "data_wait_percent": 4, "train_loss": -3}, 100)
    totals.add([GpuSample(0, energy_joules=400)])  # between the reports, 600 s of training
    totals.add_work({"images_per_second": 10, "data_wait_percent": 6}, 400)
    totals.add([GpuSample(0, energy_joules=350)])
    totals.add_work({"images_per_second": 115, "data_wait_percent": 8}, 700)
    totals.add([GpuSample(0, energy_joules=1000)])
    figures = totals.summary(1000)
    assert figures.pop("verdict").startswith("The GPUs are well used, and the batch could be about 2.4 times")
    assert figures == {
        "seconds": 1000,
        "gpus": 1,
        "utilization_percent": {"mean": 62, "p10": 10, "p50": 90},
        "utilization_mean_percent_by_gpu": {"0": 62},
        "data_wait_percent": 6,
        "throttled_percent": 10,
        "memory_peak_bytes": 9 * 10**9,
        "memory_total_bytes": 24 * 10**9,
        "batch_could_be_times_larger": 2.4,
        "energy_joules": 4250,
        "images_per_second": 75,
        "images_per_joule": 75 / 2 * 600 / 750,
        "gpu_errors": 1,
        "host_usd": 1.0,
    }


def test_a_job_that_mostly_evaluates() -> None:
    """Of 600 s it trains for 20, in four reports, the third of them five times as long as the others."""
    totals = JobTotals(num_hosts=2, usd_per_hour=None)
    for seconds, images, wait, at in (
        (2.5, 100, 10, 10),
        (2.5, 100, 10, 20),
        (12.5, 1500, 50, 580),
        (2.5, 100, 10, 600),
    ):
        totals.add([GpuSample(0, energy_joules=1000)])
        totals.add_work(
            {
                "trained_images": images,
                "trained_seconds": seconds,
                "images_per_second": images / seconds,
                "data_wait_percent": wait,
            },
            at,
        )
    figures = totals.summary(600)
    assert figures["images_per_second"] == 1800 / 20
    assert figures["data_wait_percent"] == (3 * 10 * 2.5 + 50 * 12.5) / 20
    assert figures["images_per_joule"] == pytest.approx(1700 / 2 / 3000, rel=1e-3)


def test_one_report_has_no_energy_of_its_own() -> None:
    totals = JobTotals(1, None)
    totals.add([GpuSample(0, 50, energy_joules=1000)])
    totals.add_work({"trained_images": 100, "trained_seconds": 5, "images_per_second": 20}, 5)
    assert "images_per_joule" not in totals.summary(60)


def test_unknown_is_absent() -> None:
    assert JobTotals(1, 5.0).summary(60) == {}
    totals = JobTotals(1, None)
    totals.add_work({"data_wait_percent": 5}, 30)
    totals.add_work({"data_wait_percent": 5}, 60)
    assert totals.summary(60).keys() == {"seconds", "data_wait_percent", "verdict"}


BUSY = {
    "utilization_percent": {"mean": 95, "p10": 90, "p50": 96},
    "utilization_mean_percent_by_gpu": {"0": 96, "1": 94},
    "data_wait_percent": 2,
    "throttled_percent": 0,
    "batch_could_be_times_larger": 1.1,
}
HALF_IDLE = {"utilization_percent": {"mean": 31, "p10": 0, "p50": 25}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "The GPUs limit, as they should"),
        ({"data_wait_percent": 43, "throttled_percent": 50}, "waits for data 43 % of its time"),
        ({"throttled_percent": 25}, "holds the clock down 25 % of the time"),
        ({"utilization_mean_percent_by_gpu": {"0": 99, "1": 50}}, "from 50 to 99 %"),
        (HALF_IDLE, "busy 31 % of the time though data is there: try a larger batch"),
        ({**HALF_IDLE, "batch_could_be_times_larger": 6}, "the batch could be about 6 times larger, steps"),
        ({"batch_could_be_times_larger": 3.2}, "the batch could be about 3.2 times larger"),
        ({"gpu_lost": 1, "data_wait_percent": 43}, "fell off the bus"),
    ],
)
def test_the_sentence_names_the_bottleneck(change: dict, says: str) -> None:
    assert says in verdict({**BUSY, **change})


def test_what_is_not_known_is_not_said() -> None:
    silent = {name: figure for name, figure in BUSY.items() if name != "data_wait_percent"}
    idle = verdict({**silent, **HALF_IDLE})
    assert "data is there" not in idle
    assert "busy 31 % of the time, and whether the job waits for its data is not known" in idle
    assert "data_wait_percent" in idle
    without_utilization = {"gpus": 2, "data_wait_percent": 2, "batch_could_be_times_larger": 5}
    assert verdict(without_utilization).startswith("The GPUs do not tell how busy they are")
    assert "about 5 times larger" in verdict(without_utilization)
    assert verdict({"data_wait_percent": 2}).startswith("No GPU was sampled")


def test_the_line_of_the_log() -> None:
    summary = {
        **BUSY,
        "memory_peak_bytes": 21_000_000_000,
        "memory_total_bytes": 24_000_000_000,
        "energy_joules": 86_000,
        "images_per_joule": 0.4321,
        "host_usd": 1.256,
        "verdict": "So it is.",
    }
    assert told(summary) == (
        "GPU utilisation 95 % (p10 90, p50 96), waiting for data 2 %, throttled 0 %, memory at most 21.0 of "
        "24.0 GB, 86 kJ, 0.432 images per joule, 1.26 USD. So it is."
    )


def run_job(start: Start, tmp_path: Path, **work: float) -> tuple[dict, str]:
    """An agent that hears of `work` for a while: its summary and what its log says of it."""
    path = tmp_path / "gpu-summary.json"
    path.write_text('{"verdict": "of an earlier attempt"}')
    agent = start(
        f"--summary={path}", "--work-address", f"verdict-{time.monotonic_ns()}", "--publish-seconds=9"
    )
    sender = WorkSender(agent.process.args[-2])

    def is_known() -> bool:
        sender.send(**work)
        return path.exists() and work.keys() <= json.loads(path.read_text()).keys()

    wait_until(is_known)
    assert agent.finish() == 0
    sender.close()
    (line,) = [message for message in agent.messages() if "GPU utilisation" in message]
    return json.loads(path.read_text()), line


def test_a_starved_job_is_told_so_and_a_well_fed_one_is_not(
    start: Start, driver: Path, tmp_path: Path
) -> None:
    nvml.turn(driver, {"0.utilization": 35})
    starved, line = run_job(start, tmp_path, images_per_second=8.0, data_wait_percent=61.0)
    assert "waits for data 61 %" in starved["verdict"]
    assert line.endswith(starved["verdict"])

    nvml.turn(driver, {"0.utilization": 97, "0.memory_used": 15 << 30})
    fed, _ = run_job(start, tmp_path, images_per_second=30.0, data_wait_percent=1.5)
    assert fed["verdict"].startswith("The GPUs limit, as they should")
    assert fed["utilization_percent"] == {"mean": 97, "p10": 97, "p50": 97}


def test_a_folder_that_cannot_be_written_costs_the_file_only(start: Start, tmp_path: Path) -> None:
    agent = start(f"--summary={tmp_path / 'missing' / 'gpu-summary.json'}")
    wait_until(agent.lines)
    assert agent.finish() == 0
    assert "GPU utilisation 50 %" in agent.messages()[-1]


def test_without_a_driver_and_without_work_nothing_is_said(
    start: Start, driver: Path, tmp_path: Path
) -> None:
    nvml.turn(driver, {"gpus": 0})
    agent = start(f"--summary={tmp_path / 'gpu-summary.json'}")
    wait_until(agent.messages)
    assert agent.finish() == 0
    assert not (tmp_path / "gpu-summary.json").exists()
    assert len(agent.messages()) == 1
