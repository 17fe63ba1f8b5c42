"""Middle of a training job with several processes: torch's launcher, which starts one rank per GPU of this host.

`python -m training.launch` is started by job.py in a rank's place and answers as one: 0, or a failure
file and 1. A stop goes from job.py through here to each rank.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import logs
from training import failure, peers
from training.environment import Environment, read_environment, read_tree
from training.stop_signals import StopSignals, end_with_parent

logger = logging.getLogger("training.launch")  # its name when run by `-m` is __main__

POLL_SECONDS = 0.1


def main() -> int:
    stop = StopSignals()
    stop.install()
    end_with_parent()
    logs.configure()
    failure_file, process = read_tree().failure_file, None
    try:
        environment = read_environment()
        process, leader = f"the launcher on {environment.current_host}", environment.hosts[0]
        if len(environment.hosts) > 1 and not peers.wait_for_name(
            leader, environment.rendezvous_timeout_seconds, lambda: stop.requested
        ):
            _end_as_asked()
        text = _launch(environment, stop)
    except Exception as error:  # whatever it is, the caller must find it in the failure file
        logger.exception("the processes could not be launched")
        text = failure.describe(error, process)
    if text is None:
        return 0
    failure.write_first(failure_file, text)
    return 1


def _launch(environment: Environment, stop: StopSignals) -> str | None:
    """Run the ranks to their end; why they failed, or None.

    The launcher works in a thread with the signals held back: it would end the ranks at SIGTERM, which
    are to end by themselves. They begin with the signals waiting, until each has its own handlers.
    """
    ranks: set[int] = set()
    told: set[int] = set()
    with ThreadPoolExecutor(1, "launcher") as pool:
        with stop.held_back():
            launched = pool.submit(_elastic_launch, environment)
        while not launched.done():
            ranks |= children()
            if stop.requested:
                if not ranks:  # still waiting for the other hosts
                    _end_as_asked()
                for rank in ranks - told:
                    _signal(os.kill, rank, signal.SIGTERM)
                told |= ranks
            wait([launched], POLL_SECONDS)
    for rank in ranks:  # what a rank left behind: each has a session of its own
        _signal(os.killpg, rank, signal.SIGKILL)
    return launched.result()


def _elastic_launch(environment: Environment) -> str | None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = len(environment.hosts) > 1
    config = LaunchConfig(
        min_nodes=len(environment.hosts),
        max_nodes=len(environment.hosts),
        nproc_per_node=environment.processes_per_host,
        run_id=environment.job_name,
        # Static: ranks in the order of the hosts. One host alone needs no port that others know.
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{environment.hosts[0]}:{environment.rendezvous_port}" if several else "localhost:0",
        rdzv_configs={"rank": environment.host_rank, "timeout": int(environment.rendezvous_timeout_seconds)}
        if several
        else {},
        local_addr=environment.current_host if several else "localhost",
        max_restarts=0,  # a new attempt is SageMaker's to make, from the checkpoint
    )
    try:
        elastic_launch(config, sys.executable)("-X", "faulthandler", "-m", "training.rank")
    except ChildFailedError as error:
        return _first_failure(error.failures, environment)
    return None


def _first_failure(failures: Mapping[int, Any], environment: Environment) -> str:
    """What a rank could not write itself: the signal or the exit code that ended it."""
    killed = {rank: found for rank, found in failures.items() if found.exitcode < 0}
    rank, first = min((killed or failures).items(), key=lambda item: item[1].timestamp)
    count = len(environment.hosts) * environment.processes_per_host
    return failure.describe_exit(
        first.exitcode, f"process {rank + 1} of {count}, on {environment.current_host},"
    )


def children(proc: Path = Path("/proc")) -> set[int]:
    """The ranks: this process has no other children. Not every kernel lists them by their parent."""
    lists = [thread / "children" for thread in proc.glob("self/task/*")]
    if not any(file.exists() for file in lists):
        return {pid for pid, parent in _parents(proc) if parent == os.getpid()}
    found: set[int] = set()
    for file in lists:
        with suppress(OSError):  # a thread that has just ended
            found |= {int(pid) for pid in file.read_text().split()}
    return found


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    """Each process with its parent."""
    for file in proc.glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has just ended
            # NUMBER (NAME) STATE PARENT ..., and a name may hold anything
            yield int(file.parent.name), int(file.read_text().rpartition(")")[2].split()[1])


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        send(pid, number)


def _end_as_asked() -> None:
    """End by the signal that asked for it: nothing has begun, and job.py says so."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
