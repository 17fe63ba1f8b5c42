"""`serve` before it answers: its first word, its settings, its port, its model folder."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+: ")


def test_another_program_of_the_image_is_run_instead(run_serve):
    done = run_serve("bash", "-c", "echo hello; exit 7")
    assert (done.stdout, done.returncode) == ("hello\n", 7)


@pytest.mark.parametrize("words", [("no-such-word",), ("serve", "--fast")])
def test_other_words_are_refused_with_what_is_accepted(run_serve, words):
    done = run_serve(*words)
    assert done.returncode == 2
    assert "usage: serve" in done.stderr
    assert repr(" ".join(words)) in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "eighty", "a whole number from 1 to 65535"),
        ("SAGEMAKER_BIND_TO_PORT", "70000", "a whole number from 1 to 65535"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "0", "a whole number from 1 to 64"),
        ("MAX_BATCH", "-1", "a whole number"),
        ("REQUEST_TIMEOUT_SECONDS", "1.5", "a whole number from 1 to 86400"),
        ("GPU_METRICS", "maybe", "on or off"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_that_names_it(run_serve, name, value, said):
    done = run_serve("serve", **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert LOG_LINE.match(line)
    assert name in line
    assert repr(value) in line
    assert said in line


def test_a_taken_port_is_one_line_with_the_variable_to_change(run_serve):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_serve("serve", SAGEMAKER_BIND_TO_PORT=port)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"port {port}" in line
    assert "SAGEMAKER_BIND_TO_PORT" in line


def test_every_log_line_has_our_form(start_server):
    lines = start_server().log.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if not LOG_LINE.match(line)] == []


def test_an_empty_variable_counts_as_unset(start_server):
    start_server(MAX_BATCH="", SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="")


@pytest.mark.parametrize(
    ("workers", "make", "said"),
    [
        (1, lambda folder: None, "model does not exist"),
        (1, lambda folder: folder.mkdir(), "model is empty"),
        (2, lambda folder: (folder / "deep" / "deeper").mkdir(parents=True), "no model.json in"),
        (2, lambda folder: (folder.mkdir(), (folder / "model.json").write_text("{}")), "'factor' (KeyError"),
    ],
    ids=["absent", "empty", "wrapped twice", "broken"],
)
def test_a_model_that_does_not_load_ends_the_container_with_the_cause_last(
    start_server, tmp_path, workers, make, said
):
    make(tmp_path / "model")
    server = start_server(
        base=tmp_path, model=None, ready=False, SAGEMAKER_MODEL_SERVER_WORKERS=workers, LOG_LEVEL="DEBUG"
    )
    assert server.exit_code() == 4, server.log
    last = server.log.splitlines()[-1]
    assert said in last, server.log
    assert str(tmp_path / "model") in last
    assert "doubling" in last
    assert list((tmp_path / "tmp").iterdir()) == []


def test_two_workers_that_fail_at_one_moment_end_the_container_as_one_does(start_server):
    server = start_server(model={"load_seconds": 1}, ready=False, SAGEMAKER_MODEL_SERVER_WORKERS=2)
    server.wait_for("loading")
    os.kill(server.process.pid, signal.SIGSTOP)  # so that Gunicorn hears of both at once
    time.sleep(2)
    os.kill(server.process.pid, signal.SIGCONT)
    assert server.exit_code() == 4
    assert "'factor' (KeyError" in server.log.splitlines()[-1]


def test_a_missing_model_package_ends_the_container_with_the_cause_last(start_server):
    server = start_server(ready=False, MODEL_PACKAGE="tripling")
    assert server.exit_code() == 4
    assert "MODEL_PACKAGE is 'tripling'" in server.log.splitlines()[-1]


def test_a_default_answer_that_the_model_cannot_make_ends_the_container(start_server):
    server = start_server(ready=False, SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="image/gif")
    assert server.exit_code() == 4
    assert "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT='image/gif'" in server.log.splitlines()[-1]


def test_a_model_wrapped_in_one_folder_is_found_and_said(start_server, tmp_path):
    folder = tmp_path / "model" / "my-model-1.0"
    folder.mkdir(parents=True)
    (tmp_path / "model" / "._junk").touch()
    (folder / "model.json").write_text(json.dumps({"factor": 5}))
    server = start_server(base=tmp_path, model=None)
    assert server.invoke([2]).json() == [10]
    assert "my-model-1.0" in server.log


@pytest.mark.parametrize("said_by", ["a file", "a variable", "nobody"])
def test_a_script_for_the_toolkits_is_not_run_and_the_log_says_so_once(start_server, tmp_path, said_by):
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "model.json").write_text(json.dumps({"factor": 5}))
    settings = {"SAGEMAKER_PROGRAM": "inference.py"} if said_by == "a variable" else {}
    if said_by == "a file":
        (tmp_path / "model" / "code" / "inference.py").write_text("raise SystemExit")
    server = start_server(base=tmp_path, model=None, SAGEMAKER_MODEL_SERVER_WORKERS=2, **settings)
    assert server.invoke([2]).json() == [10]
    warnings = [line for line in server.log.splitlines() if " WARNING " in line]
    assert len(warnings) == (said_by != "nobody")
    assert all("inference.py is for SageMaker's toolkits and is not run" in line for line in warnings)


def test_it_writes_only_below_the_temporary_folder_and_cleans_up(start_server):
    server = start_server()

    def files():
        return {path for path in server.base.rglob("*") if path.is_file()}

    server.invoke([1])
    (run_directory,) = (server.base / "tmp").iterdir()
    written = {path for path in files() if path.parent == run_directory}
    assert {path.suffix for path in written} == {".db", ".ready"}
    assert files() - written == {server.base / "log", server.base / "model" / "model.json"}
    server.process.terminate()
    assert server.exit_code() == 0
    assert files() - written == {server.base / "log", server.base / "model" / "model.json"}
    assert list((server.base / "tmp").iterdir()) == []


def test_the_gpu_sampler_runs_once_beside_the_workers_and_ends_with_them(start_server):
    server = start_server(GPU_METRICS="on", SAGEMAKER_MODEL_SERVER_WORKERS=2)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.children()}
    samplers = [pid for pid, command in commands.items() if b"metrics.agent" in command]
    assert len(commands) == 3
    assert len(samplers) == 1
    for pid in set(commands) - set(samplers):
        assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
    server.process.terminate()
    assert server.exit_code() == 0
    assert not Path(f"/proc/{samplers[0]}").exists()


def test_each_worker_sees_one_gpu_and_its_replacement_the_same(start_server):
    server = start_server(CUDA_VISIBLE_DEVICES="GPU-a,GPU-b")

    def seen():
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(server.invoke, [{"variable": "CUDA_VISIBLE_DEVICES"}] * 40))
        return {answer.json()[0] for answer in answers}

    assert len(server.children()) == 2
    assert seen() == {"GPU-a", "GPU-b"}
    os.kill(server.children()[1], signal.SIGKILL)
    while server.ping()[0] == 200:
        time.sleep(0.01)
    server.wait_for("ready")
    assert seen() == {"GPU-a", "GPU-b"}


@pytest.mark.parametrize("visible", ["", "GPU-a"])
def test_without_a_choice_of_gpus_there_is_one_worker_and_its_view_is_left_alone(start_server, visible):
    server = start_server(CUDA_VISIBLE_DEVICES=visible)
    assert len(server.children()) == 1
    assert server.invoke({"variable": "CUDA_VISIBLE_DEVICES"}).json() == [visible]


def test_neither_the_application_nor_gunicorns_master_loads_torch():
    """The master reads gunicorn_conf.py, and a worker imports serving.app before the model is there."""
    code = (
        "import sys, serving.app, serving.gunicorn_conf; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    container = Path(__file__).resolve().parents[2] / "container"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(container)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "[]\n"
