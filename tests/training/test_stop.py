"""A job that is stopped, killed, or started again: signals to real processes at every moment."""

import os
import signal
import time

import pytest

SLOW = {"steps": 1000, "step_seconds": 0.02}

MODEL = """
import os, subprocess, sys, time
from dataclasses import dataclass
{at_import}

@dataclass(frozen=True)
class Config:
    pass

def train(config, *, model_dir, checkpoint_dir, should_stop, **_):
    {body}
"""
WRITE = "(model_dir / 'model.json').write_text('{{}}')"


def steps(job):
    return [int(line.split(";")[0].removeprefix("step=")) for line in job.out.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_between_steps_leaves_model_and_checkpoint(job, number):
    job.hyperparameters(**SLOW)
    process = job.start("train")
    job.wait_for("step=3;")
    os.killpg(process.pid, number)  # as a terminal or an init would
    ended = job.end(process)
    assert ended.code == 0
    assert 3 <= job.model["steps"] < 1000
    assert (job.root / "checkpoints" / "step").read_text() == str(job.model["steps"])
    assert f"training stopped by {number.name}" in ended.last_line
    assert not job.failure_file.exists()


def test_a_stop_while_the_rank_imports_is_not_lost(job):
    at_import = "if 'training.rank' in sys.orig_argv: print('importing', flush=True); time.sleep(1)"
    package = job.package(MODEL.format(at_import=at_import, body=f"assert should_stop(); {WRITE.format()}"))
    process = job.start("train", **package)
    job.wait_for("importing")
    process.terminate()
    ended = job.end(process)
    assert ended.code == 0, ended.err


def test_a_stop_before_the_rank_began_ends_with_143(job):
    at_import = "assert 'training.rank' not in sys.orig_argv; print('importing', flush=True); time.sleep(1)"
    process = job.start("train", **job.package(MODEL.format(at_import=at_import, body="pass")))
    job.wait_for("importing")
    process.terminate()
    ended = job.end(process)
    assert ended.code == 143
    assert job.failure == "Stopped: by SIGTERM before training began"
    assert ended.last_line == job.failure


@pytest.mark.parametrize("milliseconds", [30, 60, 90, 120, 150, 180, 220])
def test_a_stop_at_any_moment_of_the_start_ends_well(job, milliseconds):
    job.hyperparameters(**SLOW)
    process = job.start("train")
    time.sleep(milliseconds / 1000)
    process.terminate()
    ended = job.end(process)
    if ended.code == -signal.SIGTERM:
        assert ended.err == ""  # before the interpreter had read a line of ours
    elif ended.code == 143:
        assert "before training began" in job.failure
    else:
        assert ended.code == 0
        assert job.model["factor"] == 2


def test_a_model_that_does_not_stop_is_ended_after_the_grace(job, ends):
    body = "print(os.getpid(), flush=True); time.sleep(60)"
    process = job.start(
        "train", STOP_GRACE_SECONDS="0.5", **job.package(MODEL.format(at_import="", body=body))
    )
    job.wait_for("\n")
    rank = wait_for_number(job)
    began = time.monotonic()
    process.terminate()
    ended = job.end(process)
    assert 0.5 <= time.monotonic() - began < 30
    assert ended.code == 143
    assert job.failure == "Stopped: by SIGTERM; training did not end within 0.5 s, before a model was written"
    ends(rank)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("file", "code"), [("model.json", 0), (".model.json.partial", 143)])
def test_a_stop_by_force_is_a_success_where_a_model_stands(job, ends, again, file, code):
    """Its grace ended, or a second signal came, while the model's train() was still busy with what comes after."""
    body = f"(model_dir / {file!r}).touch(); print(os.getpid(), flush=True); time.sleep(60)"
    grace = "100" if again else "0.5"
    process = job.start(
        "train", STOP_GRACE_SECONDS=grace, **job.package(MODEL.format(at_import="", body=body))
    )
    rank = wait_for_number(job)
    process.terminate()
    if again:
        job.wait_for("asked to stop")
        time.sleep(0.3)
        process.terminate()
    ended = job.end(process)
    assert ended.code == code, ended.err
    assert job.failure_file.exists() == (code != 0)
    assert "before a model was written" in ended.err if code else "after a model was written" in ended.err
    ends(rank)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(job, ends, second):
    body = "print(os.getpid(), flush=True); time.sleep(60)"
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    rank = wait_for_number(job)
    process.terminate()
    job.wait_for("asked to stop within 100 s")
    time.sleep(0.3)  # closer ones are one request
    began = time.monotonic()
    process.send_signal(second)
    ended = job.end(process)
    assert time.monotonic() - began < 30
    assert ended.code == 143
    assert job.failure.startswith(f"Stopped: by a second signal ({second.name})")
    ends(rank)


def test_one_request_that_arrives_twice_is_no_second_one(job):
    job.hyperparameters(**SLOW)
    process = job.start("train")
    job.wait_for("step=3;")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert job.end(process).code == 0
    assert job.model["steps"] >= 3


def test_a_stop_that_leaves_no_model_is_143(job):
    body = "print('training', flush=True)\n    while not should_stop(): time.sleep(0.01)"
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    job.wait_for("training\n")
    process.terminate()
    assert job.end(process).code == 143
    assert job.failure.startswith("Stopped: by SIGTERM, and the model's train() wrote nothing to ")


def test_a_model_that_dies_of_the_stop_is_143(job):
    body = "import signal; signal.signal(15, signal.SIG_DFL); print('training', flush=True); time.sleep(60)"
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    job.wait_for("training\n")
    process.terminate()
    assert job.end(process).code == 143
    assert job.failure.startswith("Stopped: by SIGTERM, which ended training")


def test_a_bug_on_the_way_out_of_a_stop_is_a_failure(job):
    body = "print('training', flush=True)\n    while not should_stop(): time.sleep(0.01)\n    raise OSError('disk')"
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    job.wait_for("training\n")
    process.terminate()
    assert job.end(process).code == 1
    assert job.failure.startswith("AlgorithmError: OSError: disk")


def test_a_killed_job_goes_on_from_its_checkpoint(job):
    job.hyperparameters(**SLOW)
    process = job.start("train")
    job.wait_for("step=5;")
    process.kill()
    process.wait()
    reached = steps(job)[-1]
    job.hyperparameters(steps=reached + 3)
    ended = job.run("train")
    assert ended.code == 0
    assert reached <= steps(job)[0] <= reached + 3
    assert job.model["steps"] == reached + 3


def test_a_killed_rank_is_reported_and_a_new_attempt_goes_on(job):
    body = (
        "print(os.getpid(), flush=True)\n"
        "    time.sleep(0 if any(checkpoint_dir.iterdir()) else 60)\n"
        f"    {WRITE.format()}"
    )
    package = job.package(MODEL.format(at_import="", body=body))
    process = job.start("train", **package)
    os.kill(wait_for_number(job), signal.SIGKILL)
    assert job.end(process).code == 1
    assert "killed by signal 9" in job.failure
    (job.root / "checkpoints" / "step").touch()
    assert job.run("train", **package).code == 0
    assert not job.failure_file.exists()


@pytest.mark.parametrize(
    ("after", "code"),
    [("pass", 0), ("raise OSError('x')", 1), ("os._exit(3)", 1), ("os.kill(os.getpid(), 9)", 1)],
)
def test_no_process_is_left(job, ends, after, code):
    body = f"print(subprocess.Popen(['sleep', '300']).pid, flush=True); {WRITE.format()}; {after}"
    ended = job.run("train", **job.package(MODEL.format(at_import="", body=body)))
    assert ended.code == code
    ends(int(ended.out))


def test_the_rank_does_not_outlive_a_killed_parent(job, ends):
    body = "print(os.getpid(), flush=True); time.sleep(60)"
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    rank = wait_for_number(job)
    process.kill()
    ends(rank)


def test_children_of_the_model_do_not_hear_of_the_stop(job):
    """A data loader that got the signal too would fail the step that is still running."""
    body = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1)'])\n"
        "    print('training', flush=True)\n"
        "    while not should_stop(): time.sleep(0.01)\n"
        f"    assert child.wait() == 0\n    {WRITE.format()}"
    )
    process = job.start("train", **job.package(MODEL.format(at_import="", body=body)))
    job.wait_for("training\n")
    os.killpg(process.pid, signal.SIGTERM)
    ended = job.end(process)
    assert ended.code == 0, ended.err


def wait_for_number(job):
    job.wait_for("\n")
    deadline = time.monotonic() + 20
    while not (text := job.out.read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(text)
