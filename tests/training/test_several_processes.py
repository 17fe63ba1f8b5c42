"""A job of several processes and hosts: real launchers and ranks, the hosts being process trees on this machine."""

import json
import os
import re
import signal
import socket
import time

import pytest

from training.launch import children

from .conftest import Job

MODEL = """
import json, os, signal, time
from dataclasses import dataclass
from torch import distributed, ones

DISTRIBUTED = True

@dataclass(frozen=True)
class Config:
    pass

def stopped(should_stop):
    vote = ones(1) * should_stop()
    distributed.all_reduce(vote)
    return vote.item() > 0

def train(config, *, model_dir, report, should_stop, **_):
    rank, count = distributed.get_rank(), distributed.get_world_size()
    report("train_loss", rank + 1.0, 1)
    {body}
    if rank == 0:
        (model_dir / "model.json").write_text(json.dumps({{"count": count, "local": os.environ["LOCAL_RANK"]}}))
"""
# In one write: gloo says a few words of its own, in pieces, on the same stream.
TELL_PID = r"os.write(1, b'\nPID %d\n' % os.getpid())"
PID = re.compile(r"^PID (\d+)$", re.MULTILINE)
UNTIL_STOPPED = """while not stopped(should_stop): time.sleep(0.02)"""


@pytest.fixture
def two_hosts(tmp_path):
    """Two trees whose hosts know each other; `start(job)` is the container's start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ["127.0.0.1", "localhost"]  # the first leads
    jobs = [Job(tmp_path / name) for name in names]
    for job, name in zip(jobs, names, strict=True):
        resources = {"current_host": name, "hosts": names, "network_interface_name": "lo"}
        job.config("resourceconfig.json", resources)
        job.settings = {"RENDEZVOUS_PORT": str(port), "COLLECTIVE_TIMEOUT_SECONDS": "20"}
    yield jobs
    for job in jobs:
        for process in job.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def start(job, body, **environ):
    package = job.package(MODEL.format(body=body))
    return job.start("train", **package, **getattr(job, "settings", {}), **environ)


def metrics(output):
    return [line for line in output.splitlines() if "=" in line]


def test_a_stop_reaches_all_processes_and_only_the_first_is_heard(job):
    body = "print('training', flush=True)\n    " + UNTIL_STOPPED
    process = start(job, body, PROCESSES_PER_HOST="2")
    job.wait_for("training\n", 60)
    os.killpg(process.pid, signal.SIGTERM)
    ended = job.end(process, 60)
    assert ended.code == 0, ended.err
    assert "training stopped by SIGTERM" in ended.last_line
    assert metrics(ended.out) == ["step=1; train_loss=1;"]
    assert job.model == {"count": 2, "local": "0"}


@pytest.mark.parametrize(
    ("last_words", "failure"),
    [
        ("os.kill(os.getpid(), 9)", "process 2 of 2, on algo-1, was killed by signal 9"),
        ("raise ValueError('bad picture a.jpg')", "ClientError: bad picture a.jpg\nin process 2 of 2"),
    ],
)
def test_the_process_that_failed_first_is_the_one_that_is_told(job, ends, last_words, failure):
    body = f"{TELL_PID}\n    if rank == 1: {last_words}\n    {UNTIL_STOPPED}"
    ended = job.end(start(job, body, PROCESSES_PER_HOST="2"), 60)
    assert ended.code == 1
    assert failure in job.failure
    for pid in PID.findall(ended.out):
        ends(int(pid))


def test_no_process_outlives_a_killed_parent(job, ends):
    body = f"{TELL_PID}; time.sleep(60)"
    process = start(job, body, PROCESSES_PER_HOST="2")
    deadline = time.monotonic() + 60
    while len(pids := PID.findall(job.out.read_text())) < 2:
        assert time.monotonic() < deadline, job.err.read_text()
        time.sleep(0.05)
    process.kill()
    for pid in pids:
        ends(int(pid))


def test_two_hosts_train_together_though_one_comes_late_and_stop_together(two_hosts):
    first, second = two_hosts
    for job in two_hosts:
        job.config("inputdataconfig.json", {"train": {"S3DistributionType": "ShardedByS3Key"}})
    first.channel("train", "a.tar")  # the only one: the other host gets none, and not even a folder
    body = "print('training', flush=True)\n    " + UNTIL_STOPPED
    leader = start(first, body)
    time.sleep(3)
    other = start(second, body)
    for job in two_hosts:
        job.wait_for("training\n", 60)
    other.terminate()
    assert first.end(leader, 60).code == 0, first.err.read_text()
    assert second.end(other, 30).code == 0, second.err.read_text()
    assert first.model == {"count": 2, "local": "0"}
    assert metrics(first.out.read_text()) == ["step=1; train_loss=1;"]
    assert "channel 'train': this host was given no file" in second.err.read_text()
    assert metrics(second.out.read_text()) == []  # the leader's numbers only
    assert list((second.root / "model").iterdir()) == []  # SageMaker puts all hosts' models into one archive


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_dead_host_ends_the_other(two_hosts, killed):
    body = "print('training', flush=True)\n    " + UNTIL_STOPPED
    processes = [start(job, body) for job in two_hosts]
    for job in two_hosts:
        job.wait_for("training\n", 60)
    processes[killed].kill()
    other = two_hosts[1 - killed]
    ended = other.end(processes[1 - killed], 45)
    assert ended.code == 1
    assert "another process of the job ended or stopped answering" in other.failure


def test_a_host_that_never_comes_ends_the_wait(two_hosts):
    first, _ = two_hosts
    ended = first.end(start(first, "pass", RENDEZVOUS_TIMEOUT_SECONDS="2"), 60)
    assert ended.code == 1
    assert "AlgorithmError: Dist" in first.failure
    assert "the launcher on 127.0.0.1" in first.failure


@pytest.mark.parametrize("waiting", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stop_while_the_other_host_is_awaited(two_hosts, waiting):
    job = two_hosts[waiting]
    process = start(job, "pass")
    job.wait_for("1 process(es) each", 30)
    time.sleep(4)  # into the rendezvous, on most machines; before it a stop must do the same
    began = time.monotonic()
    process.terminate()
    ended = job.end(process, 30)
    assert ended.code == 143
    assert time.monotonic() - began < 20
    assert job.failure.startswith("Stopped: by SIGTERM")


def test_a_name_that_never_resolves_ends_the_wait(two_hosts):
    first, _ = two_hosts
    hosts = ["127.0.0.1", "0-nowhere.invalid"]
    first.config("resourceconfig.json", {"current_host": "127.0.0.1", "hosts": hosts})
    ended = first.end(start(first, "pass", RENDEZVOUS_TIMEOUT_SECONDS="1"), 60)
    assert ended.code == 1
    assert "the name of host 0-nowhere.invalid did not resolve within 1 s" in first.failure


@pytest.mark.parametrize("listed", [True, False])
def test_the_children_are_found_on_kernels_that_do_not_list_them_too(tmp_path, listed):
    own = os.getpid()
    for pid, name, parent in (
        (11, "python3", own),
        (12, "a) S 1 (b", own),
        (13, "python3", 1),
        (14, "x", 11),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 0 0")
    for thread in (own, own + 1):
        (tmp_path / "self" / "task" / str(thread)).mkdir(parents=True)
        if listed:
            (tmp_path / "self" / "task" / str(thread) / "children").write_text(
                "11 " if thread == own else "12 "
            )
    assert children(tmp_path) == {11, 12}


def test_a_model_for_one_process_gets_one(job):
    ended = job.run("train", PROCESSES_PER_HOST="3")
    assert ended.code == 0
    assert "doubling trains in one process: 2 GPUs stay unused" in ended.err
    assert ended.out.count("train_loss") == 3  # its three steps, once
    assert json.loads((job.root / "model" / "model.json").read_text())["steps"] == 3
