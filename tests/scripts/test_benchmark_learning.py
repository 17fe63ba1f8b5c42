"""The learning benchmark with everything small: both comparisons run to their end, and are written down."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark_learning import race
from learning_benchmark import textbook
from learning_benchmark.results import Comparison, Point, Results
from surface_normals.training.synthetic import write_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark_learning.py"
STEPS = 100
SMALL = [
    "--minutes=0.02",
    "--epochs=2",
    "--pictures=6",
    "--unseen=2",
    "--width=64",
    "--height=64",
    "--size=tiny",
]


@pytest.mark.slow
def test_both_comparisons_run_and_are_written_down(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, *SMALL, "--output-dir", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "learning.csv").read_text().splitlines()))
    curves = {(row["comparison"], row["training"]) for row in rows}
    assert {training for _, training in curves} == {
        "textbook loop",
        "ours, tiny",
        "random start",
        "ImageNet weights",
    }
    assert all(0 < float(row["mean_angular_error"]) < 180 for row in rows)
    for training in ("random start", "ImageNet weights"):
        assert max(int(row["step"]) for row in rows if row["training"] == training) == 2
    for training in ("textbook loop", "ours, tiny"):
        seconds = [float(row["seconds"]) for row in rows if row["training"] == training]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
    assert (tmp_path / "learning.png").stat().st_size > 1000
    assert "| ours, tiny |" in (tmp_path / "learning.md").read_text()
    assert (tmp_path / "learning.md").read_text() in done.stdout


def test_a_side_that_fails_ends_the_benchmark_with_its_words(tmp_path):
    with pytest.raises(SystemExit, match=r"one failed:(?s:.*)crop_width=65 is not a multiple of 32"):
        race(tmp_path, {"one": ("ours", {"config": {"crop_width": 65}})})


@pytest.mark.slow
def test_the_textbook_loop_learns_four_pictures_by_heart(tmp_path):
    """It is no straw man: without a mistake in its flip, its truth or its loss, it gets there."""
    torch.manual_seed(0)
    for _ in write_dataset(tmp_path, count=4, width=64, height=64, seed=3, kind="objects"):
        pass
    pictures, normals = textbook.load(tmp_path)
    errors = []

    def epoch_done(network, step):
        if step == STEPS:
            prediction = textbook.predict(network, pictures)
            errors.append(np.degrees(textbook.angle_loss(prediction, normals).item()))

    textbook.train(pictures, normals, seed=0, epoch_done=epoch_done, should_stop=lambda: bool(errors))
    assert errors[0] < 15


def test_the_table_has_the_last_and_the_best_error(tmp_path):
    curve = [Point(10.0, 5, 40.0), Point(20.0, 10, 31.0), Point(30.0, 15, 33.04)]
    Results("Some pictures", 41.234, [Comparison("Random start", "seconds", {"ours": curve})]).write(tmp_path)
    table = (tmp_path / "learning.md").read_text()
    assert "best constant 41.2." in table
    assert "| ours | 15 | 30 | 33.0 | 31.0 |" in table
    assert (tmp_path / "learning.csv").read_text().splitlines()[1] == "Random start,ours,10.00,5,40.000"
