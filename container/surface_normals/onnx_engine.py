"""One of predict's engines, `onnx`: the exported network in ONNX Runtime, on the CPU. Needs no torch.

Training writes `model.onnx` (hyperparameter `export`) and, in export.json, which weights it was made of.
Only a picture that is too large for the memory is left to torch, where it is installed: the program cannot
be told the figures of a picture of which it sees a tile.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from surface_normals.codecs import MAX_PIXELS, MAX_TILED_PIXELS, TILE_BYTES, TILED_BYTES_PER_PIXEL
from surface_normals.description import WEIGHTS, can_tile, read_description

if TYPE_CHECKING:
    from surface_normals.torch_engine import TorchEngine

PROGRAM, FACTS = "model.onnx", "export.json"
BYTES_PER_PIXEL = 550
"""At the peak of a picture's way through the program: 160 (`tiny`) to 490 (`M`) were measured."""

_log = logging.getLogger(__name__)


class OnnxEngine:
    """The network of `model_dir`, computed by `threads` threads; None: one for each core.

    All threads work on a picture that is alone. Of several, in one call or in as many calls at once, each
    thread takes one at a time: threads that need not wait for each other after every layer are faster, and stay
    so on a busy host. A picture of more than `whole_pixels` goes through torch, in tiles; where that cannot
    be, none is taken.

    Raises ValueError when the folder has no model.onnx that was made of its weights.
    """

    def __init__(
        self, model_dir: Path, threads: int | None = None, *, whole_pixels: int = MAX_PIXELS
    ) -> None:
        description = read_description(model_dir)  # its conventions are the network's own
        self.stride = checked_stride(model_dir)
        self._model_dir = model_dir
        self._whole_pixels = whole_pixels
        has_tiles = find_spec("torch") is not None and can_tile(description["architecture"]["encoder"])
        self.max_pixels = MAX_TILED_PIXELS if has_tiles else MAX_PIXELS
        self.lanes = self._threads = threads = threads or len(os.sched_getaffinity(0))
        self._for_one = _session(model_dir / PROGRAM, threads)
        self._for_each = self._for_one if threads == 1 else _session(model_dir / PROGRAM, 1)
        self._pool = ThreadPoolExecutor(threads, "onnx")
        self._calls = 0  # that are under way
        self._counting = threading.Lock()
        self._torch: TorchEngine | None = None
        self._loading = threading.Lock()

    def peak_bytes(self, height: int, width: int) -> int:
        """What one picture takes of the host's memory."""
        if height * width > self._whole_pixels:
            return TILED_BYTES_PER_PIXEL * height * width + TILE_BYTES
        return BYTES_PER_PIXEL * height * width

    def run(
        self, pictures: NDArray[np.uint8], is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (B, H, W, 3), H and W multiples of `stride`, to normals (B, H, W, 3) and expected errors
        (B, H, W) in degrees."""
        if pictures[0, :, :, 0].size > self._whole_pixels:
            return self._in_tiles().run(pictures, is_wanted)
        if len(pictures) == 1:
            with self._call() as is_alone:
                return _run(self._for_one if is_alone else self._for_each, pictures)
        each = self._pool.map(partial(_run, self._for_each), np.split(pictures, len(pictures)))
        normals, errors = zip(*each, strict=True)
        return np.concatenate(normals), np.concatenate(errors)

    @contextmanager
    def _call(self) -> Iterator[bool]:
        """Whether no other call is under way."""
        with self._counting:
            self._calls += 1
            is_alone = self._calls == 1
        try:
            yield is_alone
        finally:
            with self._counting:
                self._calls -= 1

    def _in_tiles(self) -> "TorchEngine":
        """The same network in torch, from the first large picture on."""
        from surface_normals.torch_engine import load_engine  # seconds and memory that few pictures need

        with self._loading:
            if self._torch is None:
                _log.info(
                    "a picture of more than %d pixels: torch predicts such, in tiles", self._whole_pixels
                )
                self._torch = load_engine(
                    self._model_dir, self._threads, device="cpu", whole_pixels=self._whole_pixels
                )
            return self._torch


def _session(program: Path, threads: int) -> Any:
    import onnxruntime  # here, so that it may be missing where another engine is used

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait slow everything down as soon as anything else runs on the host.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])


def _run(session: Any, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.multiply(pictures.transpose(0, 3, 1, 2), np.float32(1 / 255), dtype=np.float32, order="C")
    normals, concentration = session.run(["normals", "concentration"], {"picture": x})
    return np.moveaxis(normals, 1, 3), expected_error_degrees(concentration[:, 0])


def has_onnx(model_dir: Path) -> bool:
    """Whether the folder has a model.onnx made of its weights, and ONNX Runtime is installed."""
    if find_spec("onnxruntime") is None:
        return False
    try:
        checked_stride(model_dir)
    except ValueError:
        return False
    return True


def checked_stride(model_dir: Path) -> int:
    """What sides must be a multiple of. Raises ValueError when model.onnx is missing or of other weights."""
    try:
        facts = json.loads((model_dir / FACTS).read_text())[PROGRAM]
        stride, made_of = int(facts["side_multiple_of"]), facts["weights_sha256"]
        if not (model_dir / PROGRAM).is_file():
            raise FileNotFoundError(PROGRAM)
        found = hashlib.sha256((model_dir / WEIGHTS).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{model_dir} has no {PROGRAM} described by {FACTS}: train with export=onnx ({error!r})"
        ) from error
    if made_of != found:
        raise ValueError(f"{model_dir / PROGRAM} was made of other weights than {WEIGHTS}: export it again")
    return stride


def expected_error_degrees(concentration: NDArray[np.float32]) -> NDArray[np.float32]:
    """What network.py's function of this name computes, in NumPy."""
    k = concentration
    tail = np.exp(-np.float32(np.pi) * k)
    errors: NDArray[np.float32] = np.rad2deg(2 * k / (k * k + 1) + np.float32(np.pi) * tail / (1 + tail))
    return errors
