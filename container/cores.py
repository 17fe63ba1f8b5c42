"""How much of the host's processors this container may use: both programs share it out among their processes."""

import os
from collections.abc import Iterable
from pathlib import Path

from cgroup import CGROUP, processor_quota


def available_cpus(limits: Path = CGROUP) -> int:
    """Hardware threads that this process may run on, at most its share of time; at least 1."""
    return _within_quota(len(os.sched_getaffinity(0)), limits)


def available_cores(limits: Path = CGROUP, cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores that this process may run on, at most its share of time in whole cores; at least 1.

    Two hardware threads of a core are one: arithmetic keeps it busy alone. The kernel stops a container
    that has more threads than its share of time, all of them at once.
    """
    return _within_quota(_physical(os.sched_getaffinity(0), cpus), limits)


def _within_quota(count: int, limits: Path) -> int:
    quota = processor_quota(limits)
    return count if quota is None else max(1, min(count, int(quota)))


def _physical(allowed: Iterable[int], cpus: Path) -> int:
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:  # not said: then it is one by itself
            siblings.add(str(cpu))
    return len(siblings)
