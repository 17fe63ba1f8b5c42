#!/usr/bin/env python3
"""How well the training learns, beside something: `make bench-learning`, 15 minutes on two cores.

On generated pictures of rooms and objects, 300 to train on and 60 unseen ones:
1. the `S` network from a random start against the training that one writes in an afternoon, in the same time;
2. the same network with real ImageNet weights against a random start, in the same number of steps.
Both sides of a comparison run at the same time, with one thread each, and the time that counts is their own
processor time without the measurements, so that a busy machine disturbs both alike. Writes .bench/learning.md,
learning.csv and learning.png.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from make_sample_data import show_progress, usable_cores

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from learning_benchmark.imagenet import ENCODER, write_weights  # noqa: E402
from learning_benchmark.results import Comparison, Point, Results, read_points  # noqa: E402
from surface_normals.network import SHAPES  # noqa: E402
from surface_normals.training.dataset import PictureDataset  # noqa: E402
from surface_normals.training.evaluation import constant_predictions, evaluate_constant  # noqa: E402
from surface_normals.training.synthetic import write_dataset  # noqa: E402

CONTESTANT = ROOT / "scripts" / "learning_benchmark" / "contestant.py"
SEEDS = {"train": 0, "unseen": 1}
SECONDS_BETWEEN_LINES = 30.0
Side = tuple[str, dict[str, Any]]
"""What contestant.py is told: which training, and its options."""


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: no process left behind
    output: Path = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, arguments)
        write_weights(folder / "pretrained")
        results = Results(
            pictures=f"{arguments.pictures} generated pictures of {arguments.width}x{arguments.height} to train on, "
            f"{arguments.unseen} unseen",
            constant_degrees=best_constant_degrees(folder),
        )
        for comparison in comparisons(folder, arguments):
            results.comparisons.append(comparison)
            results.write(output)
    print("\n" + results.table())


def comparisons(folder: Path, arguments: argparse.Namespace) -> Iterator[Comparison]:
    """Each as soon as it is complete."""
    common = {
        "size": arguments.size,
        "crop_height": arguments.height,
        "crop_width": arguments.width,
    }
    seconds = 60 * arguments.minutes
    random = {**common, "encoder_weights": "random"}
    sides: dict[str, Side] = {
        "textbook loop": ("textbook", {"seconds": seconds}),
        f"ours, {arguments.size}": ("ours", {"seconds": seconds, "config": random}),
    }
    yield Comparison(f"random start, {arguments.minutes:g} minutes", "seconds", race(folder, sides))
    lite = {**common, "encoder": ENCODER, "epochs": arguments.epochs}
    sides = {
        start: ("ours", {"config": {**lite, "encoder_weights": weights}})
        for start, weights in (("random start", "random"), ("ImageNet weights", "imagenet"))
    }
    yield Comparison("EfficientNet-Lite0, equal steps", "step", race(folder, sides))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of processor time for each side (8)")
    parser.add_argument("--epochs", type=int, default=16, help="with and without ImageNet weights (16)")
    parser.add_argument("--pictures", type=int, default=300, help="to train on (300)")
    parser.add_argument("--unseen", type=int, default=60, help="to measure on (60)")
    parser.add_argument("--width", type=int, default=128, help="of a picture, a multiple of 32 (128)")
    parser.add_argument("--height", type=int, default=96, help="of a picture, a multiple of 32 (96)")
    parser.add_argument("--size", default="S", choices=SHAPES, help="the network (S)")
    parser.add_argument("--output-dir", type=Path, default=ROOT / ".bench", help="where results go (.bench)")
    arguments = parser.parse_args()
    if arguments.width % 32 or arguments.height % 32:
        parser.error(f"{arguments.width}x{arguments.height}: both must be multiples of 32")
    return arguments


def make_pictures(folder: Path, arguments: argparse.Namespace) -> None:
    for name, seed in SEEDS.items():
        count = arguments.pictures if name == "train" else arguments.unseen
        print(f"{name} pictures:", file=sys.stderr)
        pictures = write_dataset(
            folder / name,
            count=count,
            width=arguments.width,
            height=arguments.height,
            seed=seed,
            kind="mixed",
            workers=usable_cores(),
        )
        show_progress(pictures, count)


def best_constant_degrees(folder: Path) -> float:
    """Error of the mean normal of each place on the unseen pictures."""
    unseen = PictureDataset("unseen", folder / "unseen")
    constants = constant_predictions(PictureDataset("train", folder / "train"))
    samples = [unseen[index] for index in range(len(unseen))]
    return min(evaluate_constant(constant, samples)["mean_angular_error"] for constant in constants.values())


def race(folder: Path, sides: dict[str, Side]) -> dict[str, list[Point]]:
    """Run all sides at the same time; the curve of each. Exits with the end of a side's log when it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    curves = {name: folder / f"{place}.jsonl" for place, name in enumerate(sides)}
    logs = {name: folder / f"{place}.log" for place, name in enumerate(sides)}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (side, options) in sides.items():
            curves[name].write_text("")
            command = [sys.executable, CONTESTANT, side, folder, curves[name], json.dumps(options)]
            with logs[name].open("wb") as log:
                # A session each: Linux shares the processor out among sessions, not among processes.
                processes[name] = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
        told = time.monotonic()
        while any(process.poll() is None for process in processes.values()):
            exit_on_failure(processes, logs)
            time.sleep(0.2)
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(
                    "; ".join(f"{name}: {progress(curves[name])}" for name in sides),
                    file=sys.stderr,
                    flush=True,
                )
        exit_on_failure(processes, logs)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {name: read_points(curves[name]) for name in sides}


def exit_on_failure(processes: dict[str, "subprocess.Popen[bytes]"], logs: dict[str, Path]) -> None:
    for name, process in processes.items():
        if process.poll():
            sys.exit(f"benchmark_learning: {name} failed:\n{logs[name].read_text()[-2000:]}")


def progress(curve: Path) -> str:
    points = read_points(curve)
    if not points:
        return "not measured yet"
    last = points[-1]
    return f"{last.error_degrees:.1f} degrees at step {last.step}, {last.seconds:.0f} s"


if __name__ == "__main__":
    main()
