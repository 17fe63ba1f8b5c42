"""Channels of tar shards as people have them, made with webdataset's own writer or with tar."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from webdataset import ShardWriter

from pack_dataset import pack
from surface_normals.training.dataset import PictureDataset

DESCRIPTION = {"axes": "rdf", "coding": "npy", "invalid": "zero"}
CAMERA = {"fx": 30, "fy": 31, "cx": 15.5, "cy": 12}
SAMPLES = 6


def png(seed, height=24, width=32):
    file = io.BytesIO()
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def normals(index, height=24, width=32):
    return npy(np.full((height, width, 3), (0, -0.1 * index, -1), np.float32))


def own_shards(folder, **more):
    """Three shards without an index, as somebody else's program writes them."""
    folder.mkdir()
    with ShardWriter(str(folder / "train-%03d.tar"), maxcount=2, encoder=False, verbose=0) as shards:
        for index in range(SAMPLES):
            key = f"day one/v1.2/{5 - index}"
            shards.write({"__key__": key, "PNG": png(index), "normals.npy": normals(index), **more})
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return folder


def append(shard, name, data):
    with tarfile.open(shard, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def test_shards_of_other_makers_are_read_as_they_are(tmp_path):
    mask = Image.new("L", (32, 24), 255)
    mask.paste(0, (0, 0, 10, 24))
    file = io.BytesIO()
    mask.save(file, "PNG")
    more = {"mask.png": file.getvalue(), "camera.json": json.dumps(CAMERA).encode(), "txt": b"a chair"}
    folder = own_shards(tmp_path / "train", **more)
    for name in (
        ".DS_Store",
        "._1.png",
        ".cache/1.png",
        "day one/._7.png",
        "zero.png",
        "README",
        "7.seg.png",
    ):
        append(folder / "train-000.tar", name, b"" if name == "zero.png" else b"x")
    for place, name in enumerate(("./unpacked/8", "night/9"), start=8):
        for ending, data in {"jpeg": png(place), "normals.npy": normals(place), **more}.items():
            append(folder / "train-001.tar", f"{name}.{ending}", data)
    dataset = PictureDataset("train", folder)
    expected = [f"day one/v1.2/{index}" for index in range(SAMPLES)] + ["night/9", "unpacked/8"]
    assert dataset.names == expected
    dataset.images[expected[0]].read_bytes()
    for index in range(SAMPLES):
        sample = dataset.stored(index)
        assert np.array_equal(sample.picture, np.asarray(Image.open(io.BytesIO(png(5 - index)))))
        assert np.array_equal(sample.vectors, np.load(io.BytesIO(normals(5 - index))))
        assert np.array_equal(sample.valid.any(axis=0), np.arange(32) >= 10)
        assert sample.intrinsics == tuple(CAMERA.values())


def test_one_camera_for_all_lies_beside_the_shards(tmp_path):
    folder = own_shards(tmp_path / "train")
    (folder / "cameras.json").write_text(json.dumps(CAMERA))
    assert PictureDataset("train", folder)[3].intrinsics == tuple(CAMERA.values())


def test_unpacked_files_go_before_the_archive_that_they_came_in(tmp_path):
    folder = own_shards(tmp_path / "train")
    for kind, name, data in (("images", "a.png", png(0)), ("normals", "a.npy", normals(0))):
        (folder / kind).mkdir()
        (folder / kind / name).write_bytes(data)
    assert PictureDataset("train", folder).names == ["a"]


def first(folder):
    return folder / "train-000.tar"


def cut_in_a_file(folder):
    first(folder).write_bytes(first(folder).read_bytes()[:3000])


def cut_between_files(folder):
    with tarfile.open(first(folder)) as tar:
        end = tar.getmembers()[2].offset
    first(folder).write_bytes(first(folder).read_bytes()[:end])


def damaged_header(folder):
    with tarfile.open(first(folder)) as tar:
        at = tar.getmembers()[2].offset
    data = bytearray(first(folder).read_bytes())
    data[at + 5] ^= 255
    first(folder).write_bytes(data)


def damaged_file(folder):
    with tarfile.open(first(folder)) as tar:
        member = next(m for m in tar.getmembers() if m.name == "day one/v1.2/4.PNG")
    data = bytearray(first(folder).read_bytes())
    data[member.offset_data : member.offset_data + 60] = bytes(60)
    first(folder).write_bytes(data)


def compressed(folder):
    with tarfile.open(first(folder), "w:gz") as tar:
        tar.add(folder / "dataset.json")


def no_tar(folder):
    first(folder).write_text("not found")


def twice_in_a_shard(folder):
    append(first(folder), "day one/v1.2/4.png", png(9))


def twice_in_two_shards(folder):
    append(folder / "train-002.tar", "day one/v1.2/4.jpg", png(9))


def without_truth(folder):
    append(first(folder), "day one/v1.2/7.jpg", png(9))


def without_description(folder):
    (folder / "dataset.json").unlink()


def two_descriptions(folder):
    (folder / "dataset.json").unlink()
    for number, axes in enumerate(("rdf", "rub")):
        text = json.dumps({**DESCRIPTION, "axes": axes})
        append(folder / f"train-00{number}.tar", "__meta__/dataset.json", text.encode())


def masks_are_declared(folder):
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "invalid": "mask"}))


def no_pictures(folder):
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard, "w"):
            pass


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (cut_in_a_file, r"train-000\.tar is damaged or cut off after day one/v1\.2/5\.PNG"),
        (cut_between_files, r"train-000\.tar is damaged or cut off after day one/v1\.2/5\.normals\.npy"),
        (damaged_header, r"train-000\.tar is damaged or cut off after day one/v1\.2/5\.normals\.npy"),
        (damaged_file, r"train-000\.tar: day one/v1\.2/4\.PNG: .*not a readable PNG"),
        (compressed, r"train-000\.tar is not a readable tar file without compression"),
        (no_tar, r"train-000\.tar is not a readable tar file without compression"),
        (twice_in_a_shard, r"train-000\.tar: day one/v1\.2/4\.PNG and .*4\.png have the same name"),
        (
            twice_in_two_shards,
            r"train-002\.tar: day one/v1\.2/4\.jpg and .*train-000\.tar: .*4\.PNG have the same",
        ),
        (
            without_truth,
            r"1 of 7 pictures have no normals, .*train-000\.tar: day one/v1\.2/7\.jpg; .* day one/v1\.2/7\.norm.*npy",
        ),
        (without_description, r"no .*dataset\.json"),
        (two_descriptions, r"train-000\.tar: __meta__/dataset\.json and .*train-001\.tar.* differ"),
        (masks_are_declared, r"6 of 6 pictures have no mask, .*day one/v1\.2/5\.mask\.png"),
        (no_pictures, "no pictures"),
    ],
)
def test_unusable_shards_are_one_line_that_names_shard_and_file(tmp_path, damage, names):
    folder = own_shards(tmp_path / "train")
    damage(folder)
    with pytest.raises(ValueError, match=names) as caught:
        PictureDataset("train", folder)[4]
    assert str(caught.value).startswith("channel 'train': ")
    assert "\n" not in str(caught.value)


def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path):
    folder = own_shards(tmp_path / "train")
    dataset = PictureDataset("train", folder)
    cut_in_a_file(folder)
    with pytest.raises(ValueError, match=r"train-000\.tar: day one/v1\.2/4\.(PNG|normals).*ends before"):
        dataset.stored(4)


def test_compressed_archives_alone_are_no_data_set(tmp_path):
    with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as tar:
        tar.add(__file__)
    with pytest.raises(ValueError, match=r"which holds train\.tar\.gz; .*or all of it in tar shards without"):
        PictureDataset("train", tmp_path)


MEASURED = """
import json, sys
from pathlib import Path
import webdataset
from surface_normals.training.dataset import PictureDataset
folder, seen = sys.argv[1], []
def read_bytes():
    return int(Path("/proc/self/io").read_text().split()[1])
sys.addaudithook(lambda event, arguments: seen.append((event, *arguments[:2]))
                 if str(arguments[:1]).find(folder) >= 0 else None)
before = read_bytes()
dataset = PictureDataset("train", Path(folder))
print(json.dumps([len(dataset), read_bytes() - before, seen]))
"""


def test_a_streamed_shard_with_an_index_is_opened_by_its_first_bytes(tmp_path, pytestconfig):
    """FastFile mode: a read-only mount, where each place that is read costs a request to S3."""
    loose = tmp_path / "loose"
    for kind in ("images", "normals"):
        (loose / kind).mkdir(parents=True)
    for index in range(200):
        (loose / f"images/{index}.png").write_bytes(png(index, 40, 40))
        (loose / f"normals/{index}.npy").write_bytes(normals(index, 40, 40))
    (loose / "dataset.json").write_text(json.dumps(DESCRIPTION))
    pack(PictureDataset("loose", loose), tmp_path / "train", 2_000_000)
    environment = {"PYTHONPATH": str(pytestconfig.rootpath / "container"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "train")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    length, read, seen = json.loads(result.stdout)
    shards = len(list((tmp_path / "train").iterdir()))
    assert (length, shards) == (200, 3)
    assert read < 100_000  # of five megabytes; the headers alone, with what is read around each, are three
    assert {event[0] for event in seen} <= {"os.scandir", "open"}
    opened = [event[2] for event in seen if event[0] == "open"]
    assert set(opened) <= {"r", "rb"}
    assert len(opened) == 2 * shards + 1  # index and description of each, and the first description once more


ONE_OF_TWO = """
import json, sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from surface_normals.training.distributed import Ranks
from surface_normals.training.shares import TrainingPictures
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), 2, rank)
pictures = TrainingPictures(folder / f"host-{rank}", Ranks())
told = [len(pictures), pictures.dataset.names, pictures.fingerprint]
(folder / f"told-{rank}").write_text(json.dumps(told))  # gloo writes to stdout
dist.barrier()
dist.destroy_process_group()
"""


def test_two_hosts_with_a_shard_each_have_the_data_set_between_them(tmp_path, pytestconfig):
    """ShardedByS3Key gives each host some of the files; a lone dataset.json would be on one of them."""
    folder = own_shards(tmp_path / "theirs")
    whole = PictureDataset("train", folder)
    assert pack(whole, tmp_path / "train", 45_000) == 2
    for host, shard in enumerate(sorted((tmp_path / "train").iterdir())):
        (tmp_path / f"host-{host}").mkdir()
        shard.rename(tmp_path / f"host-{host}" / shard.name)
    environment = {"PYTHONPATH": str(pytestconfig.rootpath / "container"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", ONE_OF_TWO]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stdout=subprocess.DEVNULL)
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=90) for process in ranks] == [0, 0]
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in (0, 1)]
    (length, ours, fingerprint), (_, theirs, other) = told
    assert length == SAMPLES
    assert ours + theirs == whole.names
    assert fingerprint == other == whole.fingerprint
