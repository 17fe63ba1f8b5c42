"""A folder of rendered pictures in the layout that training reads, made by several processes at once."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import Look, check_picture, render


def picture_seed(seed: int, index: int) -> int:
    """The seed of picture `index` of the dataset `seed`: `render` makes the same picture from it."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def write_dataset(
    folder: Path,
    *,
    count: int,
    width: int,
    height: int,
    seed: int,
    kind: str = "mixed",
    workers: int = 1,
    look: Look | None = None,
) -> Iterator[Path]:
    """Render `count` pictures into `folder`, which must not exist or be empty; yield each path when it is done.

    `images/NNNNNN.png` is the picture, `normals/NNNNNN.npy` float16 (H, W, 3) its normals, zero where
    no surface is seen; `dataset.json` says so. The bytes depend on everything but `workers`. The folder
    appears, complete, after the last picture; iteration that is broken off leaves nothing.
    At once raises ValueError on arguments out of range and FileExistsError on a folder with something
    in it; OSError where the folder cannot be written.
    """
    if count < 1:
        raise ValueError(f"count is {count}: a dataset needs at least 1 picture")
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least 1 process must do the work")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must be 0 or more")
    check_picture(width, height, kind)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: remove it or name another")
    look = look or Look()
    description = {
        "axes": "rdf",
        "coding": "npy",
        "invalid": "zero",
        "generator": {
            "name": "analytic scenes",
            "kind": kind,
            "seed": seed,
            "count": count,
            "width": width,
            "height": height,
            "look": asdict(look),
        },
    }
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    write = partial(_write_picture, unfinished, seed, kind=kind, width=width, height=height, look=look)

    def write_all() -> Iterator[Path]:
        try:
            for name in ("images", "normals"):
                (unfinished / name).mkdir(parents=True)
            for name in _in_processes(write, range(count), workers):
                yield folder / name
            (unfinished / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    return write_all()


def _in_processes(write: Callable[[int], str], indices: range, workers: int) -> Iterator[str]:
    """`map(write, indices)`, done by `workers` processes; by this one if that is one."""
    if workers == 1:
        yield from map(write, indices)
        return
    # Spawned, not forked: the locks of a caller's threads (torch's, a progress bar's) do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(indices)), context, initializer=_end_with_parent)
    try:
        # The workers start with Ctrl-C blocked, which reaches every process of a terminal: the parent ends them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            names = pool.map(write, indices)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield from names
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the parent does, even if that was killed and could not say so."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_picture(
    folder: Path, seed: int, index: int, *, kind: str, width: int, height: int, look: Look
) -> str:
    """Render picture `index` of the dataset `seed` into `folder`; the picture's path within it."""
    scene = render(picture_seed(seed, index), width, height, kind, look)
    name = f"images/{index:06d}.png"
    Image.fromarray(scene.image).save(folder / name)
    np.save(folder / f"normals/{index:06d}.npy", scene.normals.astype(np.float16))
    return name
