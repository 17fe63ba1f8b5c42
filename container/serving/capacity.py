"""How many workers with how many threads: what the container may really use, not what the host has."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cgroup
from serving.settings import Settings, visible_gpus


@dataclass(frozen=True)
class Capacity:
    """What the server has, and how it is shared out."""

    cores: int
    gpus: int
    workers: int
    """One for each GPU; one on a CPU, where all cores on one picture give the shortest answer time."""
    threads: int
    """Of each worker's compute on the CPU."""

    @classmethod
    def of(cls, settings: Settings) -> "Capacity":
        """What is here, except where the settings say otherwise."""
        cores, gpus = available_cores(), len(visible_gpus())
        workers = settings.workers or max(1, gpus)
        return cls(cores, gpus, workers, settings.threads or max(1, cores // workers))

    def __str__(self) -> str:
        """The line for the log."""
        return (
            f"capacity: {self.cores} cores and {self.gpus or 'no'} GPUs for {self.workers} workers "
            f"(SAGEMAKER_MODEL_SERVER_WORKERS) with {self.threads} threads each (OMP_NUM_THREADS)"
        )


def available_cores(limits: Path = cgroup.CGROUP, cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores that this process may run on, at most its share of time in whole cores; at least 1.

    Two hardware threads of a core are one: arithmetic keeps it busy alone. The kernel stops a container
    that has more threads than its share of time, all of them at once.
    """
    cores = _physical(os.sched_getaffinity(0), cpus)
    quota = cgroup.processor_quota(limits)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _physical(allowed: Iterable[int], cpus: Path) -> int:
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:  # not said: then it is one by itself
            siblings.add(str(cpu))
    return len(siblings)
