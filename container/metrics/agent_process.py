"""Starts and stops the metrics agent from the job's parent process: once per container.

The agent is a process of its own, so that neither a hung driver call nor its work in Python can
hold up training or serving. Nothing here raises or waits because of the agent's troubles.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from metrics.snapshot import Snapshot

PROGRAM_DIRECTORY = Path(__file__).resolve().parent.parent
REAP_SECONDS = 0.2
"""How long a killed agent may take to be gone; one inside a hung driver call may never be."""

_log = logging.getLogger(__name__)


def start_agent(
    *,
    phase: str,
    dimensions: Mapping[str, str],
    snapshot: Path | None = None,
    level: str = "host",
    work_address: str | None = None,
    num_hosts: int = 1,
    usd_per_hour: float | None = None,
    sink: str = "emf",
    region: str | None = None,
    summary: Path | None = None,
    interval_seconds: float = 1.0,
    publish_seconds: float = 60.0,
) -> "AgentProcess":
    """Start the agent as a child of this process, writing to this process's standard output.

    `phase`: "training" or "serving". `dimensions`: CloudWatch dimensions of this host's series,
    `Project` among them; see `cloudwatch.Identity` for what CloudWatch takes. `snapshot`: the Prometheus
    text file that the agent keeps up to date while it samples and removes when it stops.
    `level`: "fleet", "host" or "gpu". `work_address`: where a `work.WorkSender` of `num_hosts` sends.
    `usd_per_hour`: what this host costs; None: no figure is in dollars. `sink`: one of `sinks.SINKS`;
    `region`: AWS's, where that needs one. `summary`: the JSON file for the whole job's figures and verdict.
    Returns at once. If no process can be started, a warning is logged and `stop` does nothing.
    """
    command = [sys.executable, "-m", "metrics.agent", "--phase", phase, "--parent-pid", str(os.getpid())]
    command += [f"--interval-seconds={interval_seconds}", f"--publish-seconds={publish_seconds}"]
    command += [f"--dimension={name}={value}" for name, value in dimensions.items()]
    command += [f"--level={level}", f"--num-hosts={num_hosts}"]
    if work_address is not None:
        command.append(f"--work-address={work_address}")
    if usd_per_hour is not None:
        command.append(f"--usd-per-hour={usd_per_hour}")
    command.append(f"--sink={sink}")
    if region is not None:
        command.append(f"--region={region}")
    if summary is not None:
        command.append(f"--summary={summary.absolute()}")
    if snapshot is not None:
        snapshot = snapshot.absolute()
        command.append(f"--snapshot={snapshot}")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=PROGRAM_DIRECTORY,  # where `-m` looks for the package, wherever the parent was started
            start_new_session=True,  # signals to the job's group leave it alone: it publishes to the end
        )
    except OSError as error:
        _log.warning("no GPU metrics: the agent could not be started (%s)", error)
        return AgentProcess(None, snapshot)
    return AgentProcess(process, snapshot)


class AgentProcess:
    """A started agent."""

    def __init__(self, process: "subprocess.Popen[bytes] | None", snapshot: Path | None) -> None:
        self._process = process
        self._snapshot = snapshot

    @property
    def pid(self) -> int | None:
        """The agent's process id; None if it could not be started."""
        return None if self._process is None else self._process.pid

    def stop(self, timeout_seconds: float = 2.0) -> None:
        """Let the agent publish its last lines; kill it after `timeout_seconds`. May be called again."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REAP_SECONDS)
        Snapshot(self._snapshot).remove()
