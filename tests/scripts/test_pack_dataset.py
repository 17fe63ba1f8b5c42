"""scripts/pack_dataset.py as its users start it: the shards are the same data set as the loose files."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from webdataset import ShardWriter
from webdataset.tariterators import group_by_keys, tar_file_expander

from pack_dataset import pack
from surface_normals.codecs import encode_png16
from surface_normals.training import Config, train
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.synthetic import write_dataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "pack_dataset.py"
CAMERA = {"fx": 60, "fy": 61, "cx": 31.7, "cy": 24}
NAMES = ("room/0001", "room/1305031102.175304", "day.1/50% off", "Ünder/B", "long" * 40)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=6, width=64, height=64, seed=3, kind="objects"):
        pass
    return folder


def run_script(*words, cwd):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def pack_here(source, destination, shard_bytes=250_000_000):
    return pack(PictureDataset("train", source), destination, shard_bytes)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_truth(folder, kind, coding, invalid):
    """A data set of five names: a plane that faces the camera, as normals or as depth."""
    for index, name in enumerate(NAMES):
        picture = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        path = folder / f"images/{name}{('.JPG', '.png', '.webp')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        path = folder / kind / f"{name}{'.png' if coding == 'png16' else f'.{coding}'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        normals = np.zeros((48, 64, 3), np.float32) + np.float32((0, 0, -1))
        if coding == "png16" and kind == "normals":
            path.write_bytes(encode_png16(normals))
        elif coding == "png16":
            Image.fromarray(np.full((48, 64), 2000, np.uint16)).save(path)
        elif coding == "npz":
            np.savez(path, normals=normals)
        else:
            np.save(path, normals if kind == "normals" else np.full((48, 64), 2.0))
        if invalid == "mask":
            mask = np.random.default_rng(index).integers(0, 2, (48, 64)).astype(np.uint8)
            path = folder / f"masks/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * 255).save(path)
    truth = {"depth": "ray"} if kind == "depth" else {"axes": "rub" if coding == "png16" else "rdf"}
    description = {**truth, "coding": coding, **({"invalid": invalid} if kind == "normals" else {})}
    write(folder / "dataset.json", json.dumps(description).encode())


def expect_same(loose, shards):
    assert shards.names == loose.names
    assert shards.fingerprint == loose.fingerprint
    assert shards.description == loose.description
    for index, name in enumerate(loose.names):
        assert shards.images[name].read_bytes() == loose.images[name].read_bytes()
        assert shards.truth[name].read_bytes() == loose.truth[name].read_bytes()
        ours, theirs = (dataclasses.asdict(dataset.stored(index)) for dataset in (shards, loose))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert (
                np.array_equal(ours[key], value) if isinstance(value, np.ndarray) else ours[key] == value
            ), key


@pytest.mark.parametrize(
    ("kind", "coding", "invalid", "cameras"),
    [
        ("normals", "npy", "zero", "none"),
        ("normals", "png16", "mask", "each"),
        ("normals", "npz", "zero", "one"),
        ("depth", "npy", "zero", "one"),
        ("depth", "png16", "mask", "each"),
    ],
)
def test_shards_give_the_same_samples_as_loose_files(tmp_path, kind, coding, invalid, cameras):
    loose = tmp_path / "loose"
    write_truth(loose, kind, coding, invalid)
    for index, name in enumerate(NAMES if cameras == "each" else ()):
        write(loose / f"cameras/{name}.json", json.dumps({**CAMERA, "fx": 60.1 + index}).encode())
    if cameras == "one":
        write(loose / "cameras.json", json.dumps(CAMERA).encode())
    shards = tmp_path / "new/shards"
    assert pack_here(loose, shards) == 1
    expect_same(PictureDataset("train", loose), PictureDataset("train", shards))
    with tarfile.open(shards / "shard-000000.tar") as tar:
        first, *members = tar.getmembers()
        index = json.load(tar.extractfile(first))
    start = members[0].offset
    assert index == {member.name: [member.offset_data - start, member.size] for member in members}
    # Without the index they are the same, gone through header by header.
    with tarfile.open(shards / "shard-000000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("changed.txt"))
    expect_same(PictureDataset("train", loose), PictureDataset("train", shards))


def test_the_webdataset_library_reads_them_too(tmp_path, objects):
    pack_here(objects, tmp_path / "shards")
    shard = tmp_path / "shards/shard-000000.tar"
    loose = PictureDataset("train", objects)
    with shard.open("rb") as stream:  # WebDataset([shard]) does the same, and leaves it open
        read = list(group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])))
    assert [sample["__key__"] for sample in read] == loose.names
    for sample in read:
        assert set(sample) == {"__key__", "__url__", "png", "normals.npy"}
        assert sample["png"] == loose.images[sample["__key__"]].read_bytes()
        assert sample["normals.npy"] == loose.truth[sample["__key__"]].read_bytes()


def test_each_shard_is_a_data_set_of_its_own_and_of_the_size_that_was_asked_for(tmp_path):
    """With ShardedByS3Key every host is given some of the shards, and nothing else."""
    for index in range(10):
        picture = np.random.default_rng(index).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        write(
            tmp_path / f"loose/normals/{index}.png", encode_png16(np.zeros((200, 300, 3), np.float32) - 0.5)
        )
        (tmp_path / "loose/images").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"loose/images/{index}.png")
    write(tmp_path / "loose/dataset.json", b'{"axes": "rub", "coding": "png16", "invalid": "zero"}')
    assert pack_here(tmp_path / "loose", tmp_path / "shards", 1_000_000) == 2
    pack_here(tmp_path / "loose", tmp_path / "again", 1_000_000)
    names = []
    for shard in sorted((tmp_path / "shards").iterdir()):
        assert shard.stat().st_size < 1_050_000
        assert shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes()
        host = tmp_path / shard.stem
        host.mkdir()
        shutil.copy(shard, host)
        dataset = PictureDataset("train", host)
        names += dataset.names
        for index, name in enumerate(dataset.names):
            member = dataset.truth[name]
            assert dataset.stored(index).name == name
            with tarfile.open(shard) as tar:
                assert tar.getmember(member.name).offset_data == member.offset
    assert names == [str(index) for index in range(10)]


def test_shards_of_other_makers_are_packed_anew(tmp_path, objects):
    loose = PictureDataset("train", objects)
    (tmp_path / "theirs").mkdir()
    with ShardWriter(str(tmp_path / "theirs/%d.tar"), maxcount=2, encoder=False, verbose=0) as shards:
        for name in reversed(loose.names):
            files = {"png": loose.images[name].read_bytes(), "normals.npy": loose.truth[name].read_bytes()}
            shards.write({"__key__": name, **files, "cls": b"7"})
    shutil.copy(objects / "dataset.json", tmp_path / "theirs")
    pack_here(tmp_path / "theirs", tmp_path / "ours")
    pack_here(objects, tmp_path / "from_loose")
    ours, from_loose = (tmp_path / name / "shard-000000.tar" for name in ("ours", "from_loose"))
    assert ours.read_bytes() == from_loose.read_bytes()


def run(folder, data, workers, stop_after=None):
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return stop_after is not None and asked >= stop_after

    for name in ("model", "output", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    train(
        Config(size="tiny", crop_height=64, crop_width=64, batch_size=2, epochs=2, workers=workers),
        channels={"train": data},
        model_dir=folder / "model",
        output_dir=folder / "output",
        checkpoint_dir=folder / "checkpoints",
        report=lambda name, value, step: None,
        should_stop=should_stop,
    )
    return load_file(folder / "model/model.safetensors")


def test_training_from_shards_ends_with_the_same_bits(tmp_path, objects):
    done = run_script(objects, "shards", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "shards: 6 pictures in 1 shards\n", "")
    shards = tmp_path / "shards"
    from_files = run(tmp_path / "files", objects, 0)
    run(
        tmp_path / "mixed", objects, 0, stop_after=12
    )  # asked eight times before the first step: it is the fourth
    others = {
        "shards, no worker": run(tmp_path / "a", shards, 0),
        "shards, one worker": run(tmp_path / "b", shards, 1),
        "shards, two workers": run(tmp_path / "c", shards, 2),
        "begun with files": run(tmp_path / "mixed", shards, 0),
    }
    for how, weights in others.items():
        for name, tensor in from_files.items():
            assert torch.equal(tensor, weights[name]), (how, name)


def test_what_cannot_be_packed_is_one_line_and_nothing_is_left(tmp_path, objects):
    write(tmp_path / "full/mine.txt", b"precious")
    with pytest.raises(FileExistsError, match="full exists and is not an empty folder"):
        pack_here(objects, tmp_path / "full")
    shutil.copytree(objects, tmp_path / "train")
    for kind, ending in (("images", "png"), ("normals", "npy")):
        (tmp_path / f"train/{kind}/__meta__").mkdir()
        path = tmp_path / f"train/{kind}/000005.{ending}"
        path.rename(path.with_name("__meta__") / path.name)
    with pytest.raises(ValueError, match="a folder __meta__ for one"):
        pack_here(tmp_path / "train", tmp_path / "new")
    description = json.loads((objects / "dataset.json").read_text())
    write(tmp_path / "train/dataset.json", json.dumps({**description, "axes": "rub"}).encode())
    refused = run_script("train", "new", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("pack_dataset: channel 'train': only ")
    assert refused.stderr.endswith('of train/dataset.json; what fits is "rdf" (99.9 %)\n')
    assert len(refused.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"full", "train"}
    assert (tmp_path / "full/mine.txt").read_bytes() == b"precious"


def test_a_packing_that_is_stopped_leaves_nothing(tmp_path, objects):
    for index in range(3000):
        for kind, ending in (("images", "png"), ("normals", "npy")):
            path = tmp_path / f"train/{kind}/{index}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(objects / f"{kind}/00000{index % 6}.{ending}")
    shutil.copy(objects / "dataset.json", tmp_path / "train")
    command = [sys.executable, str(SCRIPT), "train", "new", "--shard-megabytes", "10"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".new.*.partial/shard-000000.tar")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "pack_dataset: interrupted, new was not made\n")
    assert {path.name for path in tmp_path.iterdir()} == {"train"}
