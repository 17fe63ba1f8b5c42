"""What make says: its list of verbs, and one clear line when something is missing."""

import re
import socket
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def verbs():
    return set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("words", [[], ["help"]])
def test_help_lists_every_verb_and_every_variable_in_one_line_each(make, words):
    listed, variables = make(*words).stdout.split("Variables", 1)
    listed = dict(re.findall(r"^([a-z-]+)\s+(\S.*)$", listed, re.MULTILINE))
    assigned = re.findall(r"^([A-Z_]+) \?=", MAKEFILE.read_text(), re.MULTILINE)

    assert set(listed) == verbs() >= {"setup", "demo", "test", "lint", "build", "train-local", "push"}
    assert re.findall(r"^([A-Z_]+) ", variables, re.MULTILINE) == assigned


def test_every_verb_is_phony(make):
    """Else a file of its name would silence it."""
    printed = make("--print-data-base", "--dry-run", "help").stdout
    [phony] = re.findall(r"^\.PHONY: (.*)$", printed, re.MULTILINE)

    assert set(phony.split()) == verbs()


@pytest.mark.parametrize("verb", ["build", "build-train", "build-serve", "train-local", "serve-local"])
def test_without_docker_one_line_says_so(make, verb, tmp_path):
    (tmp_path / "local/opt/ml/input/data/train/images").mkdir(parents=True)
    ended = make(verb, "DOCKER=no-such-client")

    assert ended.returncode != 0
    assert lines_of_ours(ended) == [
        "build: no program 'no-such-client': install Docker, or name the client, as in: make build DOCKER=podman"
    ]


def test_a_model_package_that_is_not_there_is_named(make):
    """A COPY with wildcards would make an image without a model of it."""
    ended = make("build-serve", "MODEL_PACKAGE=mine", "DOCKER=true")

    assert ended.returncode != 0
    [line] = lines_of_ours(ended)
    assert line.startswith("build: no container/mine/predictor.py: MODEL_PACKAGE")


def test_serving_without_a_model_names_the_folder_and_the_verb(make, tmp_path):
    ended = make("-o", "build-serve", "serve-local")

    assert ended.returncode != 0
    [line] = lines_of_ours(ended)
    assert f"no model in {tmp_path}/local/opt/ml/model" in line
    assert "make train-local" in line


def test_serving_on_a_taken_port_names_the_variable(make, tmp_path):
    model = tmp_path / "local/opt/ml/model/model.json"
    model.parent.mkdir(parents=True)
    model.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = make("-o", "build-serve", "serve-local", f"PORT={port}")

    assert ended.returncode != 0
    assert lines_of_ours(ended) == [
        f"serve-local: port {port} is taken; choose another, as in: make serve-local PORT={port + 1}"
    ]


@pytest.mark.parametrize(
    ("words", "given"), [((), False), (("ALLOW_DIRTY=1",), True), (("ALLOW_DIRTY=0",), False)]
)
def test_uncommitted_changes_are_pushed_only_on_demand(make, words, given):
    ended = make("--dry-run", "-o", ".venv/installed", "push", "REGISTRY=localhost:5000", *words)

    assert "--registry localhost:5000" in ended.stdout
    assert ("--allow-dirty" in ended.stdout) == given


def lines_of_ours(ended):
    return [line for line in ended.stderr.splitlines() if not line.startswith("make")]
