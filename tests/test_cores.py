"""Cores that may really be used, on trees of files like the kernel's."""

import os

import pytest

from cores import available_cores, available_cpus


def cpus(folder, siblings):
    for cpu, text in enumerate(siblings):
        (folder / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    return folder


@pytest.fixture
def four_threads(tmp_path, monkeypatch):
    """Two cores of two hardware threads each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    return cpus(tmp_path / "cpu", ["0,2", "1,3", "0,2", "1,3"])


def test_hardware_threads_of_a_core_count_once(tmp_path, four_threads):
    assert available_cores(tmp_path, four_threads) == 2


def test_hardware_threads_are_counted_where_they_are_asked_for(tmp_path, four_threads):
    assert available_cpus(tmp_path) == 4
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert available_cpus(tmp_path) == 3


def test_only_what_the_process_may_run_on_counts(tmp_path, four_threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert available_cores(tmp_path, four_threads) == 1


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 2), ("150000 100000", 1), ("20000 100000", 1), ("800000 100000", 2)]
)
def test_the_containers_share_of_time_is_the_limit(tmp_path, four_threads, text, cores):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert available_cores(tmp_path, four_threads) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 2), ("100000", 1)])
def test_so_it_is_with_version_1(tmp_path, four_threads, quota, cores):
    (tmp_path / "cpu").mkdir(exist_ok=True)
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(tmp_path, four_threads) == cores
