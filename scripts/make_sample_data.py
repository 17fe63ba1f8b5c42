#!/usr/bin/env python3
"""Make a folder of generated pictures with known surface normals, in the layout that training reads.

Random scenes of simple solids under random light, for tests, demonstrations and a first run. A model
trained on these pictures alone does not know real rooms: train on real data before you use it.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from surface_normals.training.synthetic import KINDS, write_dataset


def main() -> None:
    arguments = parse_arguments()
    folder: Path = arguments.folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing left behind
    try:
        pictures = write_dataset(
            folder,
            count=arguments.count,
            width=arguments.width,
            height=arguments.height,
            seed=arguments.seed,
            kind=arguments.kind,
            workers=arguments.workers,
        )
        show_progress(pictures, arguments.count)
    except FileExistsError as error:
        sys.exit(f"make_sample_data: {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"make_sample_data: cannot make {folder}: {error}")
    except BrokenExecutor:
        sys.exit("make_sample_data: a worker process was killed, for memory perhaps; try fewer --workers")
    except KeyboardInterrupt:
        sys.exit(f"make_sample_data: interrupted, {folder} was not made")
    print(f"{folder}: {arguments.count} pictures of {arguments.width} x {arguments.height}, {arguments.kind}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="kinds:\n" + "\n".join(f"  {name:8} {text}" for name, text in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to; must not exist or be empty")
    parser.add_argument("--count", type=int, default=200, help="number of pictures (200)")
    parser.add_argument("--width", type=int, default=160, help="of a picture, in pixels (160)")
    parser.add_argument("--height", type=int, default=120, help="of a picture, in pixels (120)")
    parser.add_argument(
        "--kind", choices=KINDS, default="mixed", help="what the scenes are, see below (mixed)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files (0)")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes at work (one for each core)"
    )
    return parser.parse_args()


def usable_cores() -> int:
    # A container may own fewer cores than the machine has; macOS cannot say which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show_progress(pictures: Iterator[Path], count: int) -> None:
    """Draw the pictures; show a bar on a terminal, a line for every tenth of them elsewhere."""
    if sys.stderr.isatty():
        for _ in tqdm(pictures, total=count, unit=" pictures"):
            pass
        return
    for done, _ in enumerate(pictures, start=1):
        if done * 10 // count > (done - 1) * 10 // count:
            print(f"{done} of {count} pictures", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
