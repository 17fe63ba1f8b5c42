"""Starting and stopping the agent from a job's parent process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import emf_validator
import nvml
from metrics.agent_process import AgentProcess, start_agent
from running_agent import CONTAINER, gone, wait_until

DIMENSIONS = {"Project": "normals", "JobName": "job", "Host": "algo-1"}


@pytest.fixture
def snapshot(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    return driver / "gpus.prom"


def start(snapshot: Path) -> AgentProcess:
    """An agent of this very process, sampling; its lines go to this process's standard output."""
    agent = start_agent(
        phase="training", dimensions=DIMENSIONS, snapshot=snapshot, interval_seconds=0.05, publish_seconds=1e6
    )
    wait_until(snapshot.exists)
    return agent


@pytest.fixture
def agent(snapshot: Path) -> Iterator[AgentProcess]:
    started = start(snapshot)
    yield started
    started.stop(0.1)


def timed(stop: Callable[[], object]) -> float:
    begun = time.monotonic()
    stop()
    return time.monotonic() - begun


def test_stop_publishes_and_leaves_nothing(snapshot: Path, capfd: pytest.CaptureFixture[str]) -> None:
    agent = start(snapshot)
    assert timed(agent.stop) < 1.9
    assert agent.pid is not None
    assert gone(agent.pid)
    assert not snapshot.exists()
    of_host, line = capfd.readouterr().out.encode().splitlines(keepends=True)
    assert {datum.gpu for datum in emf_validator.read(of_host)} == {None}
    assert [datum.dimensions for datum in emf_validator.read(line)][:7:6] == [
        {"Project": "normals", "Phase": "training"},
        DIMENSIONS,
    ]
    agent.stop()


def test_a_hung_driver_does_not_hold_up_the_parent(agent: AgentProcess, driver: Path) -> None:
    nvml.turn(driver, {"hang_milliseconds": 60_000})
    time.sleep(0.2)
    assert timed(agent.stop) < 5
    assert agent.pid is not None
    assert gone(agent.pid)


def test_an_agent_that_does_not_answer_is_killed_after_two_seconds(
    agent: AgentProcess, snapshot: Path
) -> None:
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGSTOP)
    assert 1.9 < timed(agent.stop) < 5
    assert gone(agent.pid)
    assert not snapshot.exists()


def test_an_agent_that_ended_by_itself_is_no_trouble(agent: AgentProcess, snapshot: Path) -> None:
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGKILL)
    os.waitpid(agent.pid, 0)  # as Gunicorn's master does with every child
    agent.stop()
    assert not snapshot.exists()


def test_no_process_no_trouble(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    agent = start_agent(phase="training", dimensions=DIMENSIONS)
    assert agent.pid is None
    agent.stop()
    (record,) = caplog.records
    assert "no GPU metrics" in record.getMessage()


PARENT = f"""
import os, signal, sys, time
sys.path.insert(0, {str(CONTAINER)!r})
from pathlib import Path
from metrics.agent_process import start_agent
BEFORE
agent = start_agent(
    phase="training", dimensions={DIMENSIONS!r}, snapshot=Path("gpus.prom"), interval_seconds=0.05, publish_seconds=1e6
)
print(agent.pid, file=sys.stderr, flush=True)
AFTER
agent.stop()
"""

UNTIL_TOLD = "sys.stdin.readline()"


def program(before: str = "", after: str = UNTIL_TOLD) -> str:
    return PARENT.replace("BEFORE", before).replace("AFTER", after)


class Parent:
    """A Python program that starts an agent, in a folder from which the package is not found."""

    def __init__(
        self, folder: Path, before: str = "", after: str = UNTIL_TOLD, prefix: tuple[str, ...] = ()
    ) -> None:
        self.out = folder / "stdout"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", program(before, after)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self.process.stderr is not None
        self.agent_pid = int(self.process.stderr.readline())
        wait_until((folder / "gpus.prom").exists)

    def finish(self) -> int:
        self.process.communicate("stop\n", timeout=10)
        return self.process.returncode

    def lines(self) -> list[bytes]:
        return self.out.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "before",
    [
        "",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    ],
)
def test_whatever_signals_the_parent_has_set_up(snapshot: Path, tmp_path: Path, before: str) -> None:
    parent = Parent(tmp_path, before)
    assert parent.finish() == 0
    assert gone(parent.agent_pid)
    assert not (tmp_path / "gpus.prom").exists()
    assert len([emf_validator.read(line) for line in parent.lines()]) == 2


def test_the_agent_dies_with_its_parent(snapshot: Path, tmp_path: Path) -> None:
    parent = Parent(tmp_path)
    parent.process.kill()
    parent.process.communicate(timeout=5)
    wait_until(lambda: gone(parent.agent_pid), 3)
    assert len([emf_validator.read(line) for line in parent.lines()]) == 2
    assert not (tmp_path / "gpus.prom").exists()


def test_the_agent_does_not_outlive_a_parent_that_died_before_it_was_up(
    snapshot: Path, tmp_path: Path
) -> None:
    dying = program(after="os.kill(os.getpid(), signal.SIGKILL)")
    parent = subprocess.run(
        [sys.executable, "-c", dying], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=10
    )
    wait_until(lambda: gone(int(parent.stderr)), 3)


def test_signals_to_the_jobs_group_leave_the_agent_at_work(snapshot: Path, tmp_path: Path) -> None:
    ignore = "for name in ('TERM', 'INT', 'HUP', 'USR1'): signal.signal(f'SIG{name}', lambda *_: None)"
    ignore = ignore.replace("signal.signal(f'SIG{name}'", "signal.signal(getattr(signal, f'SIG{name}')")
    parent = Parent(tmp_path, after=f"{ignore}\nprint('ready', file=sys.stderr, flush=True)\n{UNTIL_TOLD}")
    assert parent.process.stderr is not None
    assert parent.process.stderr.readline() == "ready\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.killpg(parent.process.pid, number)
    time.sleep(0.7)
    assert not gone(parent.agent_pid)
    assert parent.finish() == 0
    assert len(parent.lines()) == 2


def test_a_parent_that_is_pid_1(snapshot: Path, tmp_path: Path) -> None:
    namespace = ("unshare", "--fork", "--pid", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], capture_output=True).returncode != 0
    ):
        pytest.skip("no right to make a process namespace (unshare --pid)")
    parent = Parent(tmp_path, before="assert os.getpid() == 1", prefix=namespace)
    assert parent.finish() == 0
    assert len(parent.lines()) == 2


GUNICORN = f"""
import sys
sys.path.insert(0, {str(CONTAINER)!r})
from pathlib import Path
from metrics.agent_process import start_agent

bind = "127.0.0.1:0"
threads = 2
agents = []

def when_ready(server):
    agents.append(start_agent(
        phase="serving", dimensions={{"Project": "normals", "Endpoint": "e", "Variant": "v"}},
        snapshot=Path("gpus.prom"), interval_seconds=0.05, publish_seconds=1e6,
    ))
    Path("agent.pid").write_text(str(agents[0].pid))

def on_exit(server):
    agents[0].stop()
"""


def test_beside_gunicorn(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(GUNICORN)
    (tmp_path / "application.py").write_text("def run(environ, start_response): raise NotImplementedError\n")
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as err:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "settings.py", "application:run"],
            cwd=tmp_path,
            stdout=out,
            stderr=err,
        )
    try:
        wait_until((tmp_path / "gpus.prom").exists)
        time.sleep(0.2)
        server.terminate()
        assert server.wait(10) == 0
    finally:
        server.kill()
    assert gone(int((tmp_path / "agent.pid").read_text()))
    assert not (tmp_path / "gpus.prom").exists()
    line, _ = (tmp_path / "stdout").read_bytes().splitlines(keepends=True)
    assert {
        datum.dimensions.get("Phase", datum.dimensions.get("Endpoint")) for datum in emf_validator.read(line)
    } == {
        "serving",
        "e",
    }
