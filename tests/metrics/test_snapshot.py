"""The snapshot's text is Prometheus's, and says nothing about what nobody reports."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics.sample import GpuSample
from metrics.snapshot import Snapshot

Told = Callable[[], dict[tuple[str, str], float]]
FULL = GpuSample(0, 87, 5_000_000_001, 150_754_820_096, 345.678, 61)


def parsed(exposition: str) -> dict[tuple[str, str], float]:
    """Values by name and GPU, or figure."""
    families = list(text_string_to_metric_families(exposition))
    assert all(family.documentation for family in families)
    assert all((family.type == "counter") == (family.name + "_total" in exposition) for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}  # type: ignore[misc]


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return Snapshot(tmp_path / "gpus.prom")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """What stands in the file."""
    return lambda: parsed((tmp_path / "gpus.prom").read_text())


def test_every_figure_of_every_gpu(snapshot: Snapshot, told: Told) -> None:
    snapshot.replace([FULL, GpuSample(11, 0, 0, 1, 0.0, 0)])
    assert told() == {
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


def test_what_only_some_gpus_tell(snapshot: Snapshot, told: Told) -> None:
    snapshot.replace(
        [
            GpuSample(
                3,
                throttled=False,
                power_capped=True,
                sm_active_percent=61.5,
                tensor_active_percent=37.0,
                memory_bandwidth_percent=44.0,
                nvlink_received_mebibytes_per_second=2.0,
                nvlink_sent_mebibytes_per_second=0.0,
            )
        ]
    )
    assert told() == {
        ("gpu_throttled", "3"): 0,
        ("gpu_power_capped", "3"): 1,
        ("gpu_sm_active_ratio", "3"): 0.615,
        ("gpu_tensor_active_ratio", "3"): 0.37,
        ("gpu_memory_bandwidth_ratio", "3"): 0.44,
        ("gpu_nvlink_received_bytes_per_second", "3"): 2 * 2**20,
        ("gpu_nvlink_sent_bytes_per_second", "3"): 0,
    }


def test_counters_count_from_the_start_and_outlive_the_gpu(snapshot: Snapshot, told: Told) -> None:
    snapshot.replace([GpuSample(0, 9, energy_joules=100.5, errors=0), GpuSample(1)])
    assert told() == {
        ("gpu_utilization_ratio", "0"): 0.09,
        ("gpu_energy_joules_total", "0"): 100.5,
        ("gpu_memory_errors_total", "0"): 0,
    }
    snapshot.replace([GpuSample(0, energy_joules=200.0, xids=2)])
    snapshot.replace([GpuSample(0, xids=1, lost=True)])
    snapshot.replace([])
    assert told() == {
        ("gpu_energy_joules_total", "0"): 300.5,
        ("gpu_memory_errors_total", "0"): 0,
        ("gpu_xid_errors_total", "0"): 3,
        ("gpu_lost", "0"): 1,
    }


def test_the_drift_that_was_told_last(snapshot: Snapshot, told: Told) -> None:
    snapshot.add_work({"drift_psi:size": 0.3, "drift_ks:size": 0.1, "requests": 5, "drift_psi": 9})
    snapshot.add_work({"drift_psi:size": 0.4, "drift_psi:sharpness": 2})
    snapshot.replace([])
    assert told() == {
        ("inference_drift_psi", "size"): 0.4,
        ("inference_drift_psi", "sharpness"): 2,
        ("inference_drift_ks", "size"): 0.1,
    }


def test_nothing_known_no_file(snapshot: Snapshot, tmp_path: Path) -> None:
    snapshot.replace([])
    snapshot.add_work({"requests": 5})
    snapshot.replace([])
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_replaced_and_removed(snapshot: Snapshot, told: Told, tmp_path: Path) -> None:
    snapshot.replace([FULL])
    snapshot.replace([GpuSample(0, utilization_percent=5)])
    # The temperature is not read each time: the last one stands until the GPU is lost.
    assert told() == {("gpu_utilization_ratio", "0"): 0.05, ("gpu_temperature_celsius", "0"): 61}
    snapshot.replace([GpuSample(0, lost=True)])
    assert told() == {("gpu_lost", "0"): 1}
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
