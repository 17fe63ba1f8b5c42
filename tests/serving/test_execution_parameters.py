"""What batch transform is told: how many requests at once, and how large each."""

import pytest
import requests

from serving.execution_parameters import available_memory_bytes, execution_parameters
from serving.settings import Settings

GIB = 2**30


def asked(server):
    answer = requests.get(f"{server.url}/execution-parameters", timeout=5)
    assert answer.status_code == 200
    return answer.json()


def test_a_server_takes_what_it_said_it_would(start_server):
    server = start_server(SAGEMAKER_BATCH="true", MAX_QUEUE=3, MAX_BATCH=2)
    told = asked(server)
    assert told["BatchStrategy"] == "MULTI_RECORD"
    assert 1 <= told["MaxConcurrentTransforms"] <= 3
    assert told["MaxConcurrentTransforms"] * told["MaxPayloadInMB"] <= 100
    body = b"[" + b" " * (told["MaxPayloadInMB"] * 2**20 - 3) + b"1]"
    assert server.post(body, {"Content-Type": "application/json"}).json() == [2]


@pytest.mark.parametrize(
    ("workers", "memory_gib", "settings", "concurrent", "payload_mb"),
    [
        (1, 64, {}, 16, 6),  # two batches of 8, and SageMaker's product of 100
        (1, 64, {"max_batch": 2}, 4, 25),
        (4, 64, {"max_batch": 1}, 8, 12),
        (4, 64, {}, 16, 6),
        (1, 64, {"max_queue": 5}, 5, 20),
        (1, 3, {}, 1, 100),
        (1, 16, {}, 9, 11),
        (1, 0.2, {}, 1, 100),
        (1, 0.2, {"max_body_mb": 25}, 1, 25),
        (1, 64, {"max_payload_mb": 50}, 2, 50),
        (1, 64, {"max_payload_mb": 100}, 1, 100),
        (1, 64, {"max_payload_mb": 1}, 16, 1),
        (1, 64, {"max_payload_mb": 0}, 16, 0),
        (1, 64, {"max_concurrent_transforms": 3}, 3, 33),
    ],
)
def test_the_numbers_follow_from_workers_memory_and_what_the_job_fixed(
    workers, memory_gib, settings, concurrent, payload_mb
):
    told = execution_parameters(Settings(**settings), workers=workers, memory_bytes=int(memory_gib * GIB))
    assert told == {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": payload_mb,
    }


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 8 * GIB),
        ({"memory.max": "max", "memory.current": "1"}, 8 * GIB),
        ({"memory.max": str(3 * GIB), "memory.current": str(1 * GIB)}, 2 * GIB),
        ({"memory.max": str(3 * GIB), "memory.current": str(4 * GIB)}, 0),
        ({"memory.max": str(30 * GIB), "memory.current": str(1 * GIB)}, 8 * GIB),
        ({"memory/memory.limit_in_bytes": str(3 * GIB), "memory/memory.usage_in_bytes": "0"}, 3 * GIB),
        ({"memory/memory.limit_in_bytes": str(2**63), "memory/memory.usage_in_bytes": "0"}, 8 * GIB),
    ],
)
def test_memory_is_the_containers_own_limit_or_the_hosts(tmp_path, files, available):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert available_memory_bytes(tmp_path, meminfo) == available
