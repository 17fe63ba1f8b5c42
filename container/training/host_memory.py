"""Last step of a training job that a signal killed: what the kernel says about this container's memory."""

from pathlib import Path

GIB = 2**30
NO_LIMIT_BYTES = 2**60
"""Version 1 writes a huge number where no limit is set."""


def describe(cgroup: Path = Path("/sys/fs/cgroup")) -> str | None:
    """Peak and limit in GiB and the kernel's out-of-memory kills, of cgroup version 2 or 1; None if unreadable."""
    for folder, limit_name, peak_name, events_name in (
        (cgroup, "memory.max", "memory.peak", "memory.events"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
    ):
        limit_bytes = _number(folder / limit_name)
        peak_bytes = _number(folder / peak_name)
        kills = _event(folder / events_name, "oom_kill")
        if (limit_bytes, peak_bytes, kills) != (None, None, None):
            return _sentence(limit_bytes, peak_bytes, kills)
    return None


def _sentence(limit_bytes: int | None, peak_bytes: int | None, kills: int | None) -> str:
    parts = []
    if peak_bytes is not None:
        parts.append(f"peak {peak_bytes / GIB:.1f} GiB")
    if limit_bytes is not None and limit_bytes < NO_LIMIT_BYTES:
        parts.append(f"limit {limit_bytes / GIB:.1f} GiB")
    if kills:
        parts.append(f"the kernel's out-of-memory killer ended {kills} process(es)")
    return "host memory: " + (", ".join(parts) or "no limit is set")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent in the other version; "max" where there is no limit
        return None


def _event(path: Path, name: str) -> int | None:
    try:
        counts = dict(line.split() for line in path.read_text().splitlines())
        return int(counts[name])
    except (OSError, ValueError, KeyError):
        return None
