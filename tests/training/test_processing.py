"""A program as a SageMaker Processing job starts it, in a process: what it leaves when it fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def start(tmp_path):
    """Start `code` as the job's program; `message()` is what it left for SageMaker, None without."""

    def start(code, *arguments, **options):
        program = tmp_path / "program.py"
        program.write_text(code)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "container"),
            "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "training.processing", str(program), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    return start


@pytest.fixture
def message(tmp_path):
    def read():
        file = tmp_path / "ml/output/message"
        return file.read_text(encoding="utf-8") if file.exists() else None

    return read


def test_a_program_that_ends_well_leaves_no_message(start, message):
    process = start("import sys; print(sys.argv[1]); print('a warning', file=sys.stderr)", "word")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "word\n")
    assert "processors" in err.splitlines()[0]
    assert err.endswith("a warning\n")
    assert message() is None


def test_the_last_line_of_a_failure_is_the_job_s_message(start, message):
    process = start(
        "import sys; print('first', file=sys.stderr); sys.exit('check: no picture in ' + 'ä' * 2000)"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "check: no picture in" in err.splitlines()[-1]
    assert message().startswith("check: no picture in ää")
    assert len(message().encode()) <= 1024


def test_a_program_that_was_killed_is_told_by_its_signal(start, message):
    process = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=60)
    assert process.returncode == 137
    assert "signal 9" in message()


def test_a_stop_reaches_the_program(start, message):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert message() == "stopped"
