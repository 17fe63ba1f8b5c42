"""Real mounts: a channel that is read-only as in FastFile mode, a disk that is full, a /dev/shm that is too small."""

import subprocess

import pytest

from surface_normals.training.synthetic.dataset import write_dataset

OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")

pytestmark = pytest.mark.skipif(
    subprocess.run([*OWN_MOUNTS, "true"], capture_output=True, check=False).returncode != 0,
    reason="this system lets nobody have mounts of his own",
)

MODEL = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    pass

def train(config, *, model_dir, **_):
    {body}
"""


def mounted(commands):
    """What starts a program after these shell commands, whose mounts nobody else sees."""
    return (*OWN_MOUNTS, "sh", "-c", f'{commands} && exec "$@"', "sh")


def test_a_read_only_channel_is_trained_on_and_nothing_is_written_beside_it(job):
    folder = job.root / "input" / "data" / "train"
    for _ in write_dataset(folder, count=3, width=64, height=64, seed=3, kind="objects"):
        pass
    before = sorted(folder.rglob("*"))
    job.config("inputdataconfig.json", {"train": {"TrainingInputMode": "FastFile"}})
    job.hyperparameters(size="tiny", epochs=1, batch_size=2, crop_height=64, crop_width=64, workers=1)
    data = folder.parent
    read_only = mounted(
        f"mount --bind {data} {data} && mount -o remount,ro,bind {data} && ! touch {data}/x {folder}/x"
    )
    process = job.start("train", within=read_only, MODEL_PACKAGE="surface_normals", OMP_NUM_THREADS="1")
    ended = job.end(process, 90)
    assert ended.code == 0, ended.err
    assert "Read-only file system" in ended.err  # what `touch` said
    assert (job.root / "model" / "model.safetensors").is_file()
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in data.iterdir()] == ["train"]


def test_a_full_disk_is_told_where_the_failure_is_read_though_it_is_full(job, tmp_path):
    """The mount is gone with the job, so the text is copied out of it."""
    told = tmp_path / "told"
    small_disk = (
        *OWN_MOUNTS,
        "sh",
        "-c",
        f"mkdir -p {job.root} && mount -t tmpfs -o size=64k tmpfs {job.root} && "
        f'"$@"; code=$?; cp {job.root}/output/failure {told}; exit $code',
        "sh",
    )
    package = job.package(MODEL.format(body='(model_dir / "weights").write_bytes(bytes(2**20))'))
    ended = job.end(job.start("train", within=small_disk, **package))
    assert ended.code == 1
    first, hint, *_ = told.read_text().splitlines()
    assert first == "AlgorithmError: OSError: [Errno 28] No space left on device"
    assert "raise the job's VolumeSizeInGB" in hint
    assert ended.last_line == first
    assert "cannot write" not in ended.err


def test_a_small_shared_memory_is_told(job):
    body = """
    from torch import ones
    from torch.utils.data import DataLoader
    class Pictures:
        def __len__(self):
            return 2
        def __getitem__(self, index):
            return ones(2**20)
    list(DataLoader(Pictures(), num_workers=1))
"""
    package = job.package(MODEL.format(body=body))
    process = job.start("train", within=mounted("mount -t tmpfs -o size=1m tmpfs /dev/shm"), **package)
    assert job.end(process, 60).code == 1
    assert "/dev/shm is too small for the data loader's workers: use fewer" in job.failure
