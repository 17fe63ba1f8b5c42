"""scripts/make_sample_data.py as its users start it."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_sample_data.py"
SMALL = ("--width", "32", "--height", "24", "--kind", "objects")


def command(*words):
    return [sys.executable, "-W", "error", str(SCRIPT), *map(str, words)]


def run(*words):
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60)


def test_it_makes_the_data_and_says_how_far_it_is(tmp_path):
    done = run(tmp_path / "data", "--count", 20, "--workers", 2, "--seed", 3, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"{n} of 20 pictures" for n in range(2, 21, 2)]
    assert done.stdout == f"{tmp_path / 'data'}: 20 pictures of 32 x 24, objects\n"
    assert len(list(tmp_path.glob("data/images/*.png"))) == 20
    assert len(list(tmp_path.glob("data/normals/*.npy"))) == 20
    assert json.loads((tmp_path / "data/dataset.json").read_text())["generator"]["seed"] == 3


def test_a_terminal_gets_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # a new one has no width
    words = command(tmp_path / "data", "--count", 3, "--workers", 1, *SMALL)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as screen:
            while part := screen.read(4096):  # a terminal whose other end is closed: OSError, on Linux
                shown += part
    assert process.returncode == 0
    assert b"3/3" in shown
    assert b"100%" in shown


def test_help_says_what_the_data_is_not_good_for():
    done = run("--help")
    assert done.returncode == 0
    assert "does not know real rooms" in " ".join(done.stdout.split())
    for kind in ("objects", "rooms", "mixed"):
        assert f"\n  {kind} " in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--count", "0"], "count is 0: a dataset needs at least 1 picture"),
        (["--workers", "0"], "workers is 0"),
        (["--width", "8"], "8 x 120 pixels is too small"),
        (["--seed", "-2"], "seed is -2"),
    ],
)
def test_a_number_out_of_range_is_one_clear_line(tmp_path, words, complaint):
    refused = run(tmp_path / "data", *words)
    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    refused = run(tmp_path, "--count", 1, *SMALL)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"make_sample_data: {tmp_path} exists and is not an empty folder: remove it or name another\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "data", Path("/proc/sample-data")):  # root may write everywhere else
        refused = run(folder, "--count", 1, *SMALL)
        assert refused.returncode == 1
        assert f"cannot make {folder}: " in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("signal_number", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
    ids=["Ctrl-C, which every process gets", "SIGTERM"],
)
def test_a_run_that_is_stopped_leaves_nothing(tmp_path, signal_number, send):
    words = command(tmp_path / "data", "--count", 5000, "--workers", 2, *SMALL)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".data.*/images/*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        send(process.pid, signal_number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said == f"make_sample_data: interrupted, {tmp_path / 'data'} was not made\n"
    assert not list(tmp_path.iterdir())


def test_workers_do_not_outlive_a_killed_script(tmp_path):
    words = command(tmp_path / "data", "--count", 5000, "--workers", 2, *SMALL)
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".data.*/images/*.png")) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert len(children) >= 2
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
