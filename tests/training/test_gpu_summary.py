"""A whole job on a fake driver: what it made of its time and its GPUs, and what held it up."""

import json

import pytest

import emf_validator
import nvml

FEEDING = """
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Config:
    load_seconds: float = field(default=0.0, metadata={"help": "for a batch"})
    step_seconds: float = field(default=0.0, metadata={"help": "for its step"})


def train(config, *, channels, model_dir, output_dir, checkpoint_dir, report, should_stop):
    waited, began = 0.0, time.monotonic()
    for step in range(1, 25):
        asked = time.monotonic()
        time.sleep(config.load_seconds)
        waited += time.monotonic() - asked
        time.sleep(config.step_seconds)
        seconds = time.monotonic() - began
        report("images_per_second", 8 * step / seconds, step)
        report("data_wait_percent", 100 * waited / seconds, step)
    (model_dir / "model.json").write_text("{}")
"""


@pytest.mark.parametrize(
    ("load_seconds", "step_seconds", "utilization", "says"),
    [(0.1, 0.02, 18, "Training waits for data"), (0.002, 0.12, 96, "The GPUs limit, as they should")],
)
def test_the_verdict_of_a_starved_and_of_a_well_fed_job(
    job, tmp_path, load_seconds, step_seconds, utilization, says
):
    driver = nvml.build(tmp_path / "driver")
    nvml.turn(driver, {"0.utilization": utilization, "0.memory_used": 15 << 30})
    job.hyperparameters(load_seconds=load_seconds, step_seconds=step_seconds)
    ended = job.run(
        "train",
        **job.package(FEEDING),
        GPU_METRICS="on",
        METRICS_SINK="off",
        INSTANCE_USD_PER_HOUR="1.41",
        LD_LIBRARY_PATH=str(driver),
    )

    assert ended.code == 0, ended.err
    summary = json.loads((job.root / "output/data/gpu-summary.json").read_text())
    assert summary["verdict"].startswith(says)
    assert summary["utilization_percent"]["p50"] == utilization
    assert summary["host_usd"] == pytest.approx(1.41 * summary["seconds"] / 3600, abs=1e-4)
    assert abs(summary["data_wait_percent"] - 100 * load_seconds / (load_seconds + step_seconds)) < 25
    assert summary["verdict"] in ended.err
    assert '"_aws"' not in ended.out  # METRICS_SINK=off


COUNTING = """
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    pass


def train(config, *, channels, model_dir, output_dir, checkpoint_dir, report, should_stop):
    for step in range(8):  # as many as the agent's queue holds, should it come too late
        for name in "abcdefghijklmnopqrst":
            report(name, 1.0, step)
        report("trained_images", 125, step)
        report("trained_seconds", 0.05, step)
        report("images_per_second", 2500, step)
        report("data_wait_percent", 3, step)
        report("errors", 7, step)
        time.sleep(0.25)
    (model_dir / "model.json").write_text("{}")
"""


def test_images_are_counted_however_fast_and_however_many_numbers_are_reported(job):
    """A thousand images in a fifth of the job's time: by its speed alone they would be several times as many."""
    ended = job.run("train", **job.package(COUNTING), GPU_METRICS="on", INSTANCE_USD_PER_HOUR="3600")
    assert ended.code == 0, ended.err
    lines = [line.encode() for line in ended.out.splitlines(keepends=True) if line.startswith('{"_aws"')]
    data = [datum for line in lines for datum in emf_validator.read(line) if "Host" in datum.dimensions]
    told = {}
    for datum in data:
        told.setdefault(datum.name, []).extend(datum.values)
    summary = json.loads((job.root / "output/data/gpu-summary.json").read_text())
    if len(told["CostPer1000"]) == 1:  # else the job ran past the end of a minute
        # A dollar a second, for 1,000 images: as many dollars as the agent lived seconds.
        assert told["CostPer1000"][0] == pytest.approx(summary["seconds"], abs=3)
    assert told.keys() == {"SamplesPerSecond", "DataWaitPercent", "CostPer1000", "HostUsd"}
    assert summary["images_per_second"] == 2500
    assert len(told["SamplesPerSecond"]) == 8


def test_without_metrics_no_process_no_line_and_no_summary(job, tmp_path):
    driver = nvml.build(tmp_path / "driver")
    ended = job.run("train", GPU_METRICS="off", LD_LIBRARY_PATH=str(driver))
    assert ended.code == 0, ended.err
    assert '"_aws"' not in ended.out
    assert "GPU" not in ended.err
    assert not list((job.root / "output" / "data").iterdir())
    assert not (driver / "initialised").exists()
