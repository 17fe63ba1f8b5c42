"""What GET /execution-parameters tells batch transform: how many requests at once, and how large.

SageMaker asks once, before the job's first object, and uses what the job's own request left open.
"""

from pathlib import Path
from typing import Any

from serving.settings import MEBIBYTE, Settings

TOTAL_MB = 100
"""SageMaker's limit for MaxConcurrentTransforms x MaxPayloadInMB."""
USUAL_PAYLOAD_MB = 6
"""SageMaker's default, which holds a camera's JPEG."""
PREDICTION_SHARE = 2 / 3
"""Of the memory that is left beside the models: what goes through one at the same time is kept within it."""
MEMORY_PER_PAYLOAD_BYTE = 100
"""Of the rest. A byte of a JPEG is about three pixels, and a pixel about 30 bytes: decoded, its normals, encoded."""
BATCHES_AHEAD = 2
"""One with the model, the next being decoded."""


def execution_parameters(settings: Settings, *, workers: int, memory_bytes: int) -> dict[str, Any]:
    """The answer for a server of so many workers with `memory_bytes` left beside its models.

    Both numbers are at least 1 and their product at most 100; what the job fixed itself is kept, a payload
    of 0 too: whole objects, in chunks.
    """
    payload_mb = settings.max_payload_mb or USUAL_PAYLOAD_MB
    concurrent = settings.max_concurrent_transforms or min(
        workers * min(BATCHES_AHEAD * settings.max_batch, settings.max_queue),
        int((1 - PREDICTION_SHARE) * memory_bytes) // (payload_mb * MEBIBYTE * MEMORY_PER_PAYLOAD_BYTE),
        TOTAL_MB // payload_mb,
    )
    concurrent = max(1, concurrent)
    if settings.max_payload_mb is None:
        payload_mb = max(1, min(TOTAL_MB // concurrent, settings.max_body_mb))
    return {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 0 if settings.max_payload_mb == 0 else payload_mb,
    }


def available_memory_bytes(
    cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")
) -> int:
    """What this container may still take: of its own limit, or of the host, whichever is less."""
    host = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    rest = [int(host.split()[1]) * 1024]
    for folder, limit_name, usage_name in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, usage = _number(folder / limit_name), _number(folder / usage_name)
        if limit is not None and usage is not None:
            rest.append(max(0, limit - usage))
    return min(rest)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent in the other version; "max" where there is no limit
        return None
