"""What a job tells and leaves besides its model, from small real runs."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.training import Config, train
from surface_normals.training.outcome import Outcome
from surface_normals.training.synthetic.dataset import write_dataset

CONTAINER = Path(__file__).resolve().parents[2] / "container"
CONFIG = Config(
    size="tiny", crop_height=64, crop_width=64, batch_size=4, workers=0, epochs=3, learning_rate=1e-3
)
STRANGE = "a<b>&amp; 'quoted'"


class Job:
    """Folders of one job, and what it reported."""

    def __init__(self, folder):
        self.folder, self.reported = folder, []
        self.output = folder / "output/data"
        for path in (self.output, folder / "model", folder / "checkpoints"):
            path.mkdir(parents=True)

    def run(self, config, channels, should_stop=lambda: False):
        train(
            config,
            channels=channels,
            model_dir=self.folder / "model",
            output_dir=self.output,
            checkpoint_dir=self.folder / "checkpoints",
            report=lambda name, value, step: self.reported.append((name, value, step)),
            should_stop=should_stop,
        )
        return self

    def rows(self, name):
        with (self.output / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def json(self, name):
        return json.loads((self.output / name).read_text())

    @property
    def page(self):
        return (self.output / "report.html").read_text()


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for channel, count in (("train", 4), ("validation", 3)):
        for _ in write_dataset(
            folder / channel, count=count, width=64, height=64, seed=count, kind="objects"
        ):
            pass
    for kind in ("images", "normals"):
        path = next((folder / "validation" / kind).glob("000001.*"))
        path.rename(path.with_name(STRANGE + path.suffix))
    return {name: folder / name for name in ("train", "validation")}


@pytest.fixture(scope="module")
def job(tmp_path_factory, channels):
    return Job(tmp_path_factory.mktemp("job")).run(CONFIG, channels)


def test_every_reported_number_is_in_metrics_csv(job):
    rows = [(row["name"], float(row["value"]), int(row["step"])) for row in job.rows("metrics.csv")]
    assert [(name, step) for name, _, step in rows] == [(name, step) for name, _, step in job.reported]
    assert [value for _, value, _ in rows] == pytest.approx([value for _, value, _ in job.reported])


def test_a_measurement_ends_with_the_objective_and_the_job_with_the_best(job):
    names = [name for name, _, _ in job.reported]
    objectives = [value for name, value, _ in job.reported if name == "val_mean_angular_error"]
    assert len(objectives) == 3
    for index, name in enumerate(names):
        if name == "val_mean_angular_error":
            assert names[index - 1].startswith("val_")
            assert index + 1 == len(names) or not names[index + 1].startswith("val_")
    assert job.reported[-1] == ("best_val_mean_angular_error", min(objectives), 3)


def test_the_pictures_rows_add_up_to_the_pooled_numbers(job):
    rows, pooled = job.rows("per_image.csv"), job.json("metrics.json")
    assert [row["name"] for row in rows] == ["000000", "000002", STRANGE]
    pixels = [int(row["valid_pixels"]) for row in rows]
    for name in ("mean_angular_error", "percent_below_30"):
        weighted = sum(n * float(row[name]) for n, row in zip(pixels, rows, strict=True)) / sum(pixels)
        assert weighted == pytest.approx(pooled[name], rel=1e-4)
    assert all(0 < float(row["expected_mean_error"]) <= 90 for row in rows)
    assert sum(group["pixels"] for group in pooled["confidence"]["bins"]) == sum(pixels)
    constants = pooled["constants"]
    assert set(constants) == {"always facing the camera", "mean normal", "mean normal of each place"}
    assert all(len(numbers) == 8 for numbers in constants.values())


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.open, self.text, self.counts = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_file_that_needs_nothing_else(job):
    page = Page(job.page)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "script" not in page.counts
    assert "@import" not in job.page
    assert "url(http" not in job.page
    assert page.counts["svg"] >= 6
    assert (
        page.counts["img"] == 2 * 3 * 5
    )  # each of the three pictures is both among the worst and among the fixed


def test_the_report_shows_table_settings_and_names_as_they_are(job):
    text = " ".join(Page(job.page).text)
    for expected in ("mean normal of each place", "learning_rate", "crop_height", STRANGE, "complete"):
        assert expected in text
    assert f"{job.json('metrics.json')['mean_angular_error']:.2f}°" in text
    assert STRANGE not in job.page, "names are escaped"
    for finding in job.json("health.json"):
        assert finding["name"] in text


GPU_SUMMARY = {
    "seconds": 1000, "gpus": 1, "utilization_percent": {"mean": 62.4, "p10": 10, "p50": 90}, "data_wait_percent": 6.04,
    "throttled_percent": 10, "memory_peak_bytes": 9 * 10**9, "memory_total_bytes": 24 * 10**9,
    "batch_could_be_times_larger": 2.4, "energy_joules": 4250, "images_per_joule": 30.12, "host_usd": 1.256,
    "verdict": "The GPUs are <well> used.",
}  # fmt: skip
GPU_ROWS = [
    ("utilisation", "62 %, 10th percentile 10 %, median 90 %"),
    ("wait for data", "6.0 % of the time"),
    ("throttled", "10.0 % of the time"),
    ("largest memory", "9.0 of 24.0 GB"),
    ("the batch could be", "2.4 times larger"),
    ("energy", "4.25 kJ"),
    ("images per joule", "30.1"),
    ("cost of this host", "1.26 USD"),
]


@pytest.mark.parametrize(
    ("summary", "rows", "verdict"),
    [
        (GPU_SUMMARY, GPU_ROWS, "The GPUs are <well> used."),
        (
            {"verdict": "No GPU was sampled.", "data_wait_percent": 1},
            [("wait for data", "1.0 % of the time")],
            "No GPU",
        ),
        (None, [], None),
        ("{half", [], None),
    ],
)
def test_the_report_says_what_the_gpus_did(tmp_path, summary, rows, verdict):
    if summary is not None:
        (tmp_path / "gpu-summary.json").write_text(summary if summary == "{half" else json.dumps(summary))
    Outcome(CONFIG, tmp_path, tmp_path, lambda name, value, step: None).finish(3, 3, {})
    page = (tmp_path / "report.html").read_text()
    section = page.partition("<h2>Use of the GPUs</h2>")[2].partition("<h2>")[0]
    assert re.findall("<td>(.*?)</td><td>(.*?)</td>", section) == rows
    assert (verdict or "") in " ".join(Page(section).text)
    assert bool(section) == (verdict is not None)


def test_a_stopped_job_tells_what_is_known_then(tmp_path, channels):
    job = Job(tmp_path)
    measured = lambda: any(name == "val_mean_angular_error" for name, _, _ in job.reported)  # noqa: E731
    job.run(CONFIG, channels, should_stop=measured)
    assert job.json("metrics.json")["step"] == 1
    assert "stopped after step 1 of 3" in job.page
    assert job.rows("metrics.csv")
    assert (tmp_path / "model/model.safetensors").is_file()


def test_a_job_without_validation_has_curves_and_no_measurement(tmp_path, channels):
    job = Job(tmp_path).run(CONFIG, {"train": channels["train"]})
    assert "The model was not measured." in job.page
    assert not (job.output / "metrics.json").exists()
    assert not (job.output / "per_image.csv").exists()


def test_drift_has_the_validations_pictures_to_compare_with_or_else_the_trainings(tmp_path, channels, job):
    reference = json.loads((job.folder / "model/model.json").read_text())["reference"]
    assert {sum(histogram["counts"]) for histogram in reference.values()} == {3}
    alone = Job(tmp_path).run(CONFIG, {"train": channels["train"]})
    of_training = json.loads((alone.folder / "model/model.json").read_text())["reference"]
    assert {sum(histogram["counts"]) for histogram in of_training.values()} == {4}
    assert reference.keys() - of_training.keys() == {"expected_error_degrees"}
    assert of_training.keys() <= reference.keys()


def test_a_file_that_cannot_be_written_does_not_cost_the_job(tmp_path, channels, caplog):
    job = Job(tmp_path)
    (job.output / "report.html").mkdir()
    job.run(dataclasses.replace(CONFIG, epochs=1), channels)
    assert "report.html was not written" in caplog.text
    assert (tmp_path / "model/model.safetensors").is_file()
    assert job.json("metrics.json")


def test_the_curves_of_a_resumed_job_are_whole(tmp_path, channels):
    job = Job(tmp_path)
    job.run(CONFIG, channels, should_stop=lambda: bool(job.reported))
    shutil.rmtree(job.output)  # SageMaker keeps the checkpoints alone
    job.output.mkdir()
    job.run(CONFIG, channels)
    losses = [int(row["step"]) for row in job.rows("metrics.csv") if row["name"] == "train_loss"]
    assert losses == [1, 2, 3]


def test_tensorboard_events_hold_the_numbers_and_change_nothing(tmp_path, channels, job):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    other = Job(tmp_path).run(dataclasses.replace(CONFIG, tensorboard=True), channels)
    events = EventAccumulator(str(tmp_path / "output/tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert written == [(step, pytest.approx(v)) for name, v, step in other.reported if name == "train_loss"]
    expected, got = (load_file(base.folder / "model/model.safetensors") for base in (job, other))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert not (job.folder / "output/tensorboard").exists()


def test_cloudwatch_finds_every_number_in_the_real_log(tmp_path, channels):
    for name, path in channels.items():
        shutil.copytree(path, tmp_path / "input/data" / name)
    settings = {"size": "tiny", "crop_height": "64", "crop_width": "64", "epochs": "1", "workers": "0"}
    (tmp_path / "input/config").mkdir()
    (tmp_path / "input/config/hyperparameters.json").write_text(json.dumps(settings))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CONTAINER),
        "SAGEMAKER_BASE_DIR": str(tmp_path),
        "GPU_METRICS": "off",
        "CUDA_VISIBLE_DEVICES": "",
    }
    ended = subprocess.run(
        [CONTAINER / "train"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=True,
    )
    definitions = json.loads((CONTAINER / "surface_normals/metric_definitions.json").read_text())
    lines = ended.stdout.splitlines()
    found = {
        definition["Name"]: [float(m[1]) for line in lines if (m := re.search(definition["Regex"], line))]
        for definition in definitions
    }
    # Only a GPU has memory to report, and only float16 a scale of the loss.
    assert {name for name, numbers in found.items() if not numbers} == {"gpu_memory_mib", "loss_scale"}
    metrics = json.loads((tmp_path / "output/data/metrics.json").read_text())
    assert found["val_mean_angular_error"] == [pytest.approx(metrics["mean_angular_error"])]
    assert found["best_val_mean_angular_error"] == found["val_mean_angular_error"]
