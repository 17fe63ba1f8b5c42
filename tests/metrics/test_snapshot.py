"""The snapshot's text is Prometheus's, and says nothing about what nobody reports."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics.sample import GpuSample
from metrics.snapshot import Snapshot, text

FULL = GpuSample(0, 87, 5_000_000_001, 150_754_820_096, 345.678, 61)


def parsed(exposition: str) -> dict[tuple[str, str], float]:
    families = list(text_string_to_metric_families(exposition))
    assert all(family.type == "gauge" and family.documentation for family in families)
    return {
        (sample.name, sample.labels["gpu"]): sample.value for family in families for sample in family.samples
    }


def test_every_figure_of_every_gpu() -> None:
    assert parsed(text([FULL, GpuSample(11, 0, 0, 1, 0.0, 0)])) == {
        ("gpu_utilization_ratio", "0"): 0.87,
        ("gpu_utilization_ratio", "11"): 0,
        ("gpu_memory_used_bytes", "0"): 5_000_000_001,
        ("gpu_memory_used_bytes", "11"): 0,
        ("gpu_memory_total_bytes", "0"): 150_754_820_096,
        ("gpu_memory_total_bytes", "11"): 1,
        ("gpu_power_watts", "0"): 345.678,
        ("gpu_power_watts", "11"): 0,
        ("gpu_temperature_celsius", "0"): 61,
        ("gpu_temperature_celsius", "11"): 0,
    }


def test_unknown_is_absent() -> None:
    assert parsed(text([GpuSample(0, utilization_percent=1), GpuSample(1, lost=True)])) == {
        ("gpu_utilization_ratio", "0"): 0.01
    }
    assert text([]) == ""


def test_the_file_is_replaced_and_removed(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "gpus.prom")
    snapshot.replace([FULL])
    snapshot.replace([GpuSample(0, utilization_percent=5)])
    # The temperature is not read each time: the last one stands until the GPU is lost.
    assert parsed((tmp_path / "gpus.prom").read_text()) == {
        ("gpu_utilization_ratio", "0"): 0.05,
        ("gpu_temperature_celsius", "0"): 61,
    }
    snapshot.replace([GpuSample(0, lost=True)])
    assert (tmp_path / "gpus.prom").read_text() == ""
    snapshot.remove()
    snapshot.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshot = Snapshot(tmp_path / "missing" / "gpus.prom")
    snapshot.replace([FULL])
    snapshot.replace([FULL])
    snapshot.remove()
    (record,) = caplog.records
    assert "missing/gpus.prom" in record.getMessage()


def test_without_a_path_nothing_happens() -> None:
    Snapshot(None).replace([FULL])
    Snapshot(None).remove()
