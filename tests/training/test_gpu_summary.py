"""A whole job on a fake driver: at its end it says what held it up."""

import json

import pytest

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
