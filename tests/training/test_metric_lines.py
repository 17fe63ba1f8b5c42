"""The lines SageMaker's metric definitions read, and the definitions that read them."""

import json
import math
import re

import pytest

from training.metric_lines import metric_line, metric_regex


@pytest.mark.parametrize(
    "value",
    [0.0, -1.5, 0.53125, 1e-12, -3.25e20, 123456.0, 2**24, True, 1 / 3],
    ids=lambda value: f"{value:g}",
)
def test_the_regex_finds_the_number(value):
    (found,) = re.findall(metric_regex("train_loss"), metric_line("train_loss", value, 120))
    assert math.isclose(float(found), value, rel_tol=1e-7)


def test_form_of_a_line():
    assert metric_line("train_loss", 0.5312, 120) == "step=120; train_loss=0.5312;"


def test_a_regex_finds_its_own_name_only():
    assert not re.search(metric_regex("loss"), metric_line("train_loss", 1, 1))
    assert not re.search(metric_regex("train_loss"), metric_line("train_loss_best", 1, 1))
    assert not re.search(metric_regex("step"), metric_line("train_loss", 1, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_line_for_what_is_no_number(value):
    assert metric_line("train_loss", value, 1) is None


@pytest.mark.parametrize("name", ["", "train loss", "loss;", "1st", "métrique", "a.b"])
def test_names_that_could_not_be_found_again_are_refused(name):
    with pytest.raises(TypeError, match="metric name"):
        metric_line(name, 1.0, 1)


def test_shipped_definitions_are_ours_and_within_the_limits(container_dir):
    definitions = json.loads((container_dir / "surface_normals" / "metric_definitions.json").read_text())
    assert 1 <= len(definitions) <= 40
    for definition in definitions:
        assert set(definition) == {"Name", "Regex"}
        assert definition["Regex"] == metric_regex(definition["Name"])
        assert len(definition["Name"]) <= 255
        assert len(definition["Regex"]) <= 500
    names = [definition["Name"] for definition in definitions]
    assert len(set(names)) == len(names)


def test_every_reported_number_is_found_in_a_real_log(job):
    job.hyperparameters(steps=4)
    log = job.run("train").out
    regex = re.compile(metric_regex("train_loss"))
    found = [float(match[1]) for line in log.splitlines() if (match := regex.search(line))]
    assert found == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert "\x1b" not in log


def test_a_number_that_is_none_goes_to_the_log_and_not_to_the_metrics(job):
    package = job.package(MODEL_THAT_DIVERGES)
    ended = job.run(**package)
    assert ended.code == 0
    assert ended.out == "step=1; train_loss=2;\n"
    assert "train_loss is nan at step 2: not published" in ended.err


MODEL_THAT_DIVERGES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    pass

def train(config, *, model_dir, report, **_):
    report("train_loss", 2.0, 1)
    report("train_loss", float("nan"), 2)
    (model_dir / "model.json").write_text("{}")
"""
