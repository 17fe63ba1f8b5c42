"""`make setup`: once, again when the lock changes, and one clear line when it cannot."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    """A project whose lock asks for nothing, so that installing it needs neither network nor time."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    shutil.copy(ROOT / "Makefile", project)
    lock = project / "container/requirements/dev.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("# nothing\n")
    return project


def fake_python(folder, text):
    """A program that is found as a Python and answers as `text`, a shell script, says."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return f"PYTHON={program}"


@pytest.mark.slow
def test_it_installs_once_and_again_when_the_lock_changes(make, project):
    first = make("setup", folder=project)
    second = make("setup", folder=project)
    lock = project / "container/requirements/dev.lock"
    lock.write_text(f"no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    third = make("setup", folder=project, deadline_seconds=120)

    assert first.returncode == 0, first.stderr
    assert "installing container/requirements/dev.lock" in first.stdout
    assert (project / ".venv/bin/python").exists()
    assert (second.returncode, second.stderr) == (0, "")
    assert "installing" not in second.stdout
    assert third.returncode != 0
    assert "installing" in third.stdout
    assert "no-such-package" in third.stderr


def test_an_interrupted_environment_is_made_anew(make, project):
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").symlink_to("/nowhere/python3")

    assert make("setup", folder=project).returncode == 0
    assert (project / ".venv/bin/python").exists()


def test_a_python_that_is_not_there_is_named(make, project):
    assert_refused(make("setup", "PYTHON=python3.99", folder=project), "no program 'python3.99'")


def test_a_python_that_is_too_old_is_refused(make, project, tmp_path):
    old = fake_python(tmp_path, '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')

    assert_refused(make("setup", old, folder=project), "Python 3.9.2 is too old, 3.10 is the oldest")


def test_a_python_without_venv_is_told_what_to_install(make, project, tmp_path):
    bare = fake_python(
        tmp_path, 'case "$*" in *ensurepip*) exit 1;; --version) echo Python 3.12.3;; *) exit 0;; esac'
    )

    assert_refused(make("setup", bare, folder=project), "apt install python3-venv")


def assert_refused(ended, words):
    ours = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    assert ended.returncode != 0
    assert len(ours) == 1
    assert ours[0].startswith("setup: ")
    assert words in ours[0]
