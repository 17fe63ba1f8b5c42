"""The training benchmark with everything small, on this machine's processor: each mode runs to its end."""

import dataclasses
import shutil

import pytest

import benchmark_training
from benchmark_training import Scale, benchmark_cpu, benchmark_gpu, benchmark_memory, make_pictures, multiply

SMALL = Scale(
    width=96,
    height=64,
    pictures=2,
    rounds=1,
    memory_files=(4, 8),
    gpu_files=8,
    gpu_steps=1,
    gpu_workers=(1,),
    product=64,
)


def test_the_mode_without_a_gpu_prints_each_pair(tmp_path, capsys):
    benchmark_cpu(tmp_path, SMALL)
    printed = capsys.readouterr().out
    for word in (
        "ours, all is ",
        "shards are ",
        "of the rate on a batch in memory",
        "over 4 files",
        "over 8 ",
    ):
        assert word in printed


def test_the_table_of_gpus_has_a_row_for_each_size_and_number_of_workers(tmp_path, capsys):
    scale = dataclasses.replace(SMALL, gpu_compile=(False,), gpu_workers=(0, 1))
    benchmark_gpu(tmp_path, scale, ["tiny"], batch_size=2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert [row[:3] for row in rows] == [["tiny", "off", "0"], ["tiny", "off", "1"]]
    assert all(float(row[3]) > 0 for row in rows)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="compile=true needs a C++ compiler")
def test_the_table_of_gpus_has_compile_on_and_off(tmp_path, capsys):
    benchmark_gpu(tmp_path, SMALL, ["tiny"], batch_size=2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert [row[1] for row in rows] == ["off", "on"]
    assert all(float(row[3]) > 0 for row in rows)


def test_files_are_copies_that_can_be_forgotten(tmp_path):
    make_pictures(tmp_path / "pictures", SMALL)
    multiply(tmp_path / "pictures", tmp_path / "files", 5, shutil.copyfile)
    benchmark_training.drop_from_memory(tmp_path / "files")
    names = sorted(path.name for path in (tmp_path / "files" / "images").iterdir())
    assert names == [f"{index:06d}.jpg" for index in range(5)]
    assert (tmp_path / "files/normals/000004.png").read_bytes() == (
        tmp_path / "pictures/normals/00000.png"
    ).read_bytes()
    assert (tmp_path / "files/images/000000.jpg").stat().st_nlink == 1


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_data_set(tmp_path):
    scale = Scale(pictures=2, memory_files=(200, 2_000))
    make_pictures(tmp_path / "pictures", scale)
    few, many = benchmark_memory(tmp_path / "pictures", tmp_path, scale)
    # Ten times as many pictures held in memory would be gigabytes more; the names of the files are a few hundred kB.
    assert many < 1.05 * few
