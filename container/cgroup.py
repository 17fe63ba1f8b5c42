"""What the container was given of the host, as version 2 or 1 of control groups has it."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT_BYTES = 2**60
"""Version 1 writes a huge number where no limit is set."""


def memory_limit(folder: Path = CGROUP) -> int | None:
    """Bytes of memory; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit_bytes = int((folder / name).read_text())
        except (OSError, ValueError):  # absent in the other version; "max" where there is no limit
            continue
        return limit_bytes if limit_bytes < NO_LIMIT_BYTES else None
    return None


def processor_quota(folder: Path = CGROUP) -> float | None:
    """Processors' time a second, as `docker run --cpus` sets it; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        try:
            quota, period = (
                (folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
