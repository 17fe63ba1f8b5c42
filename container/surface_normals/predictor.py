"""The serving half of the model: bytes in, normal map out. Training evaluates through it too.

    decode -> pad -> engine (torch_engine.py or onnx_engine.py) -> crop -> encode

Nothing here needs torch; the engine that does is imported when it is chosen.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surface_normals import codecs
from surface_normals.answers import RESPONSE_TYPES, encode_answer
from surface_normals.description import read_description
from surface_normals.device import has_gpu_driver
from surface_normals.drift_figures import describe
from surface_normals.onnx_engine import OnnxEngine, has_onnx

ENGINES = ("eager", "bfloat16", "onnx")

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What computes: a network, ready."""

    stride: int
    """Sides must be a multiple of it."""
    max_pixels: int
    """A larger picture is refused."""
    lanes: int
    """How many calls of `run` with one picture, at once, are faster than one call with as many."""

    def peak_bytes(self, height: int, width: int) -> int:
        """What a picture of this size takes of the host's memory while it is predicted; 0 where that is little."""

    def run(
        self, pictures: NDArray[np.uint8], is_wanted: Callable[[], bool] = lambda: True
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pictures (B, H, W, 3) to normals (B, H, W, 3) and expected errors (B, H, W) in degrees.

        One in tiles asks, before each, whether it is still wanted, and raises GivenUpError where not.
        """


@dataclass(frozen=True)
class NormalMap:
    """A prediction, of its picture's size."""

    normals: NDArray[np.float32]
    """(H, W, 3), unit, camera axes x right, y down, z forward."""
    expected_error_degrees: NDArray[np.float32]
    """(H, W), 0 to 90: how far the network expects each normal to be off."""


class SurfaceNormalPredictor:
    """An engine behind the seam's names."""

    request_types = (*codecs.PICTURE_FORMATS, codecs.NPY)
    response_types = RESPONSE_TYPES

    def __init__(self, engine: Engine, reference: Mapping[str, Any] | None = None) -> None:
        self._engine = engine
        self.lanes = engine.lanes
        self.reference = reference or {}
        """How the pictures of the validation were, by the figures of `describe`; empty without one."""

    def decode(self, body: bytes, media_type: str) -> codecs.Picture:
        """Bytes of a JPEG, PNG, WebP or .npy picture as uint8 (H, W, 3). Raises ValueError."""
        return codecs.decode_picture(body, media_type, max_pixels=self._engine.max_pixels)

    def batch_key(self, picture: codecs.Picture) -> tuple[int, int]:
        """The size that the network sees: pictures that are padded to the same go together."""
        height, width = (side + -side % self._engine.stride for side in picture.shape[:2])
        return height, width

    def memory_bytes(self, picture: codecs.Picture) -> int:
        """What its prediction takes of the host's memory."""
        return self._engine.peak_bytes(*self.batch_key(picture))

    def predict(self, inputs: list[codecs.Picture]) -> list[NormalMap]:
        """Pictures uint8 (H, W, 3) of one `batch_key` to their normal maps."""
        return self.predict_while(inputs, lambda: True)

    def predict_while(self, inputs: list[codecs.Picture], is_wanted: Callable[[], bool]) -> list[NormalMap]:
        """Likewise. Raises GivenUpError when it is not wanted any more, which a large picture is asked about."""
        padded = np.empty((len(inputs), *self.batch_key(inputs[0]), 3), np.uint8)
        for whole, picture in zip(padded, inputs, strict=True):
            height, width = picture.shape[:2]
            whole[:height, :width] = picture
            whole[:height, width:] = picture[:, -1:]  # the last row and column again and again
            whole[height:] = whole[height - 1]
        maps = zip(inputs, *self._engine.run(padded, is_wanted), strict=True)
        return [
            NormalMap(normals[: len(picture), : len(picture[0])], errors[: len(picture), : len(picture[0])])
            for picture, normals, errors in maps
        ]

    def describe(self, input: codecs.Picture, output: NormalMap) -> dict[str, float]:
        """The figures by which drift is watched."""
        return describe(input, output.normals, output.expected_error_degrees)

    def encode(self, output: NormalMap, media_type: str) -> bytes:
        """A normal map as one of `response_types`, `media_type` having every choice spelt out."""
        return encode_answer(output.normals, output.expected_error_degrees, media_type)


def load(model_dir: Path, *, engine: str | None = None, threads: int | None = None) -> SurfaceNormalPredictor:
    """The model in `model_dir`, on its device, warmed up by one prediction.

    `engine`: one of ENGINES; None: `onnx` on a CPU where the model has been exported, it is the faster
    one there, and where torch is not installed, else `eager`. `threads` of a CPU's compute; None: as the
    engine thinks best.
    Raises ValueError when the folder holds no model of ours, or one that cannot go through that engine;
    RuntimeError when the GPU is unusable, or the processor is not made for that engine.
    """
    if engine is None:
        is_cpu = not has_gpu_driver() and has_onnx(model_dir)
        engine = "onnx" if is_cpu or find_spec("torch") is None else "eager"
    _log.info("engine: %s", engine)
    reference = read_description(model_dir).get("reference")
    predictor = SurfaceNormalPredictor(_load_engine(engine, model_dir, threads), reference)
    predictor.predict([np.zeros((64, 64, 3), dtype=np.uint8)])
    return predictor


def _load_engine(name: str, model_dir: Path, threads: int | None) -> Engine:
    if name == "onnx":
        return OnnxEngine(model_dir, threads)
    from surface_normals.torch_engine import load_engine  # seconds, and absent where only ONNX is served

    return load_engine(model_dir, threads, bfloat16=name == "bfloat16")
