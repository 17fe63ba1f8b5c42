#!/usr/bin/env python3
"""How fast training is, beside something: `make bench-training`, or with --gpu on a machine that has one.

Without --gpu: the reading of pictures against a plain Pillow and torchvision loader that does the same
work, tar shards against loose files, a step fed by the real pipeline against the same step on a batch in
memory, and the memory of a large data set against that of a small one. All of it interleaved in one run; medians.

With --gpu: a table of networks, plain and compiled, with 2 to 16 workers, from files that are not in memory.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import decode_image
from torchvision.transforms import v2
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from pack_dataset import pack  # noqa: E402
from surface_normals.codecs import encode_png16  # noqa: E402
from surface_normals.training import Config  # noqa: E402
from surface_normals.training.batches import AugmentedSamples, Key, training_batches  # noqa: E402
from surface_normals.training.dataset import PictureDataset, StoredSample  # noqa: E402
from surface_normals.training.loop import Trainer  # noqa: E402
from surface_normals.training.photometry import LIGHT_JITTER  # noqa: E402
from surface_normals.training.synthetic import render  # noqa: E402
from surface_normals.training.truth import unit_normals_of  # noqa: E402


@dataclass(frozen=True)
class Scale:
    """How much is measured; tests take less."""

    width: int = 640
    height: int = 480
    pictures: int = 16
    rounds: int = 5
    memory_files: tuple[int, int] = (1_000, 10_000)
    gpu_files: int = 2_048
    """Copies of the pictures, so that reading them is reading from the disk."""
    gpu_steps: int = 20
    gpu_workers: tuple[int, ...] = (2, 4, 8, 16)
    gpu_compile: tuple[bool, ...] = (False, True)
    product: int = 8_192
    """Side of the matrices whose product tells what the GPU can do at most."""

    @property
    def crop(self) -> dict[str, int]:
        return {"crop_height": self.height, "crop_width": self.width}


def main() -> None:
    arguments = parse_arguments()
    if arguments.peak_memory:
        print(peak_memory_bytes(arguments.peak_memory, Scale()))
        return
    if arguments.gpu and not torch.cuda.is_available():
        sys.exit("benchmark_training: torch sees no GPU here; without --gpu the processor is measured")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.gpu:
            benchmark_gpu(Path(folder), Scale(), arguments.sizes, arguments.batch_size)
        else:
            torch.set_num_threads(1)
            benchmark_cpu(Path(folder), Scale())


def benchmark_cpu(folder: Path, scale: Scale) -> None:
    pictures = folder / "pictures"
    make_pictures(pictures, scale)
    benchmark_loaders(pictures, scale)
    benchmark_shards(pictures, folder / "shards", scale)
    benchmark_step(pictures, scale)
    benchmark_memory(pictures, folder, scale)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true", help="measure training on the GPU instead")
    parser.add_argument("--sizes", nargs="+", default=["M", "L"], help="networks for --gpu (M L)")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures a step for --gpu (16)")
    parser.add_argument("--peak-memory", type=Path, help=argparse.SUPPRESS)  # this script calls itself
    return parser.parse_args()


def make_pictures(folder: Path, scale: Scale) -> None:
    """Rendered scenes as people store them: JPEG pictures, 16-bit PNG normals."""
    for name in ("images", "normals"):
        (folder / name).mkdir(parents=True)
    for index in tqdm(range(scale.pictures), desc="making pictures"):
        scene = render(index, scale.width, scale.height, "rooms")
        Image.fromarray(scene.image).save(folder / f"images/{index:05d}.jpg", quality=92)
        (folder / f"normals/{index:05d}.png").write_bytes(encode_png16(scene.normals))
    description = {"axes": "rub", "coding": "png16", "invalid": "zero"}
    (folder / "dataset.json").write_text(json.dumps(description))


class PlainPictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What people write first: Pillow, torchvision's transforms, float tensors."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.paths = sorted((folder / "images").iterdir())
        self.jitter = v2.ColorJitter(LIGHT_JITTER, LIGHT_JITTER)
        self.size = [config.crop_height, config.crop_width]
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path = self.paths[index]
        with Image.open(path) as image:
            picture = v2.functional.to_image(self.jitter(image.convert("RGB")))
        picture = v2.functional.to_dtype(picture, torch.float32, scale=True)
        # Not through Pillow, which would cut 16 bits to 8 without a word.
        stored = decode_image(str(path.parent.with_name("normals") / f"{path.stem}.png"))
        normals = torch.nn.functional.normalize(stored.float() / 65535 * 2 - 1, dim=0)
        normals = normals * torch.tensor([1, -1, -1]).view(3, 1, 1)
        top = int(self.random.integers(0, picture.shape[1] - self.size[0] + 1))
        left = int(self.random.integers(0, picture.shape[2] - self.size[1] + 1))
        picture, normals = (v2.functional.crop(x, top, left, *self.size) for x in (picture, normals))
        if self.random.random() < 0.5:
            picture, normals = picture.flip(-1), normals.flip(-1) * torch.tensor([-1, 1, 1]).view(3, 1, 1)
        return picture, normals


def benchmark_loaders(pictures: Path, scale: Scale) -> None:
    """Reading and augmenting on one core, ours beside the plain one."""
    config = Config(size="tiny", crop_height=scale.height - 32, crop_width=scale.width - 32)
    ours = AugmentedSamples(config, PictureDataset("train", pictures))
    plain = PlainPictures(pictures, config)
    rates = interleaved(
        {
            "ours": lambda number: ours[Key(number, number % scale.pictures)],
            "ours, all": lambda number: truth_of(ours[Key(number, number % scale.pictures)]),
            "plain": lambda number: plain[number % scale.pictures],
        },
        scale,
    )
    print(
        f"\nreading {scale.width}x{scale.height} JPEG + 16-bit PNG, cropped, mirrored, jittered; images/s on one core"
    )
    print(f"  ours       {rates['ours']:7.1f}   normals as stored; the device makes them unit vectors")
    print(
        f"  ours, all  {rates['ours, all']:7.1f}   unit vectors made on this core too, as in training without a GPU"
    )
    print(f"  plain      {rates['plain']:7.1f}   Pillow and torchvision")
    for name in ("ours", "ours, all"):
        print(f"  {name} is {rates[name] / rates['plain']:.2f} times as fast as plain")


def truth_of(sample: StoredSample | ValueError) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    assert isinstance(sample, StoredSample)
    return unit_normals_of(sample.vectors, sample.valid, sample.turn)


def benchmark_shards(pictures: Path, shards: Path, scale: Scale) -> None:
    """Reading from tar shards beside reading from loose files, both from memory, where files just written are."""
    pack(PictureDataset("train", pictures), shards, shard_bytes=2_000_000)
    loose, packed = PictureDataset("train", pictures), PictureDataset("train", shards)
    rates = interleaved(
        {
            "loose": lambda number: loose.stored(number % scale.pictures),
            "shards": lambda number: packed.stored(number % scale.pictures),
        },
        scale,
    )
    print("\nthe same pictures, not augmented; images/s on one core")
    print(f"  loose files {rates['loose']:6.1f}\n  tar shards  {rates['shards']:6.1f}")
    print(f"  shards are {rates['shards'] / rates['loose']:.2f} times as fast as loose files")


def benchmark_step(pictures: Path, scale: Scale) -> None:
    """A step of `tiny` fed by the real pipeline, beside the same step on a batch in memory."""
    config = Config(size="tiny", batch_size=2, workers=1, **scale.crop)
    steps = scale.pictures // config.pictures_a_step
    share, wait, rate = pipeline_share(config, pictures, steps=steps, rounds=scale.rounds)
    print(
        f"\ntraining `tiny` on {config.crop_width}x{config.crop_height}, batch {config.batch_size}, one thread"
    )
    print(f"  real pipeline {rate:.2f} images/s, {100 * share:.1f} % of the rate on a batch in memory")
    print(f"  waiting for data {wait:.2f} % of the time")


def pipeline_share(config: Config, pictures: Path, *, steps: int, rounds: int) -> tuple[float, float, float]:
    """Rate of the real pipeline as a share of that in memory; percent of it spent waiting; images/s."""
    dataset = PictureDataset("train", pictures)
    trainer = Trainer(config, {"train": pictures}, num_steps=10_000)
    batches = iter(training_batches(config, dataset, 0, 10_000))
    in_memory = next(batches)
    for _ in range(3):
        trainer.train_step(next(batches))
    real, memory, waits = [], [], []
    for _ in range(rounds):
        started, waited = finish(), 0.0
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            trainer.train_step(batch)
        real.append(finish() - started)
        waits.append(100 * waited / real[-1])
        started = finish()
        for _ in range(steps):
            trainer.train_step(in_memory)
        memory.append(finish() - started)
    # Round by round: what slows the machine for a while slows both halves of a round.
    share = statistics.median(m / r for m, r in zip(memory, real, strict=True))
    rate = steps * config.pictures_a_step / statistics.median(real)
    return share, statistics.median(waits), rate


def benchmark_memory(pictures: Path, folder: Path, scale: Scale) -> tuple[int, int]:
    """Peak memory, in bytes, of reading from few files and from many; they are links to the same pictures."""
    peaks = []
    for count in scale.memory_files:
        multiply(pictures, folder / str(count), count, os.link)
        command = [sys.executable, __file__, "--peak-memory", folder / str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks.append(int(output.split()[-1]))
    few, many = scale.memory_files
    print(
        f"\npeak memory of a run over {few:,} files {peaks[0] / 2**20:.0f} MB, over {many:,} ",
        end="",
    )
    print(f"{peaks[1] / 2**20:.0f} MB: {100 * (peaks[1] / peaks[0] - 1):+.1f} %")
    return peaks[0], peaks[1]


def multiply(pictures: Path, folder: Path, count: int, put: Callable[[Path, Path], object]) -> None:
    """A data set of `count` pictures, the given ones again and again, `put` there as links or copies."""
    for name in ("images", "normals"):
        (folder / name).mkdir(parents=True)
        sources = sorted((pictures / name).iterdir())
        for index in range(count):
            source = sources[index % len(sources)]
            put(source, folder / name / f"{index:06d}{source.suffix}")
    put(pictures / "dataset.json", folder / "dataset.json")


def peak_memory_bytes(pictures: Path, scale: Scale) -> int:
    """Peak of this process and the largest of its workers, after 40 batches."""
    config = Config(size="tiny", batch_size=2, workers=1, **scale.crop)
    dataset = PictureDataset("train", pictures)
    for _ in training_batches(config, dataset, 0, 40):
        pass
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(w).ru_maxrss for w in who) * 1024  # Linux counts in kilobytes


def benchmark_gpu(folder: Path, scale: Scale, sizes: list[str], batch_size: int) -> None:
    """Sizes, plain and compiled, with 2 to 16 workers, in bfloat16 where the GPU has it."""
    make_pictures(folder / "pictures", scale)
    files = folder / "files"
    multiply(folder / "pictures", files, scale.gpu_files, shutil.copyfile)
    peak = measured_peak_flops(scale.product)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    print(f"{name}: {peak / 1e12:.3g} TFLOP/s in bfloat16 (a product of {scale.product}x{scale.product})")
    print(
        f"batch {batch_size}, {scale.width}x{scale.height}, from {scale.gpu_files:,} JPEG and 16-bit PNG files\n"
    )
    print("size  compile  workers  images/s  of peak  memory GB  data wait  of in-memory rate")
    for size in sizes:
        config = Config(size=size, encoder_weights="random", batch_size=batch_size, **scale.crop)
        flops = flops_per_step(config, files)
        for compiled, workers in itertools.product(scale.gpu_compile, scale.gpu_workers):
            config = dataclasses.replace(config, compile=compiled, workers=workers)
            drop_from_memory(files)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            share, wait, rate = pipeline_share(config, files, steps=scale.gpu_steps, rounds=scale.rounds)
            of_peak = rate / batch_size * flops / peak
            memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else math.nan
            print(
                f"{size:4}  {'on' if compiled else 'off':7}  {workers:7}  {rate:8.1f}  {of_peak:6.1%}  "
                f"{memory:9.1f}  {wait:8.1f}%  {share:16.1%}",
                flush=True,
            )


def drop_from_memory(folder: Path) -> None:
    """Make the operating system forget the files, so that they are read from the disk again."""
    for path in folder.rglob("*.*"):
        with path.open("rb+") as file:
            os.fsync(file)  # what is not on the disk yet cannot be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured_peak_flops(side: int) -> float:
    """Operations a second of a large product of square matrices in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(20):
        started = finish()
        a @ a
        seconds.append(finish() - started)
    return 2 * side**3 / statistics.median(seconds)


def flops_per_step(config: Config, pictures: Path) -> int:
    """Operations of one step, forward and backward, as torch counts them."""
    trainer = Trainer(config, {"train": pictures}, num_steps=10)
    batch = next(iter(training_batches(config, PictureDataset("train", pictures), 0, 1)))
    with FlopCounterMode(display=False) as counter:
        trainer.train_step(batch)
    return counter.get_total_flops()


def interleaved(work: dict[str, Callable[[int], object]], scale: Scale) -> dict[str, float]:
    """Calls a second of each with the number of the call, median of some rounds in turn."""
    calls = 2 * scale.pictures
    rates: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call(0)
    for _ in range(scale.rounds):
        for name, call in work.items():
            started = time.perf_counter()
            for number in range(calls):
                call(number)
            rates[name].append(calls / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


def finish() -> float:
    """The time when all work given to the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
