"""End of a job: the model for runtimes without our code, when asked for, each file proven against the network.

model.pt2    a `torch.export` program, read by `torch.export.load`
model.onnx   for ONNX Runtime and what else reads ONNX
export.json  what was written, and how far its normals are from the network's

Both take `picture`, float32 (B, 3, H, W), RGB in 0..1, H and W multiples of the network's stride, and
give `normals` (B, 3, H, W) in `rdf` and `concentration` (B, 1, H, W). Normalisation is inside.
"""

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surface_normals.artifact import load_artifact, write_atomically
from surface_normals.description import WEIGHTS
from surface_normals.network import SurfaceNormalNetwork
from surface_normals.training.evaluation import angular_error_degrees

logger = logging.getLogger(__name__)

FILES = {"torch": "model.pt2", "onnx": "model.onnx"}
MAX_BATCH, MAX_SIDE = 64, 8192
ONNX_OPSET = 18
PARITY_DEGREES = 0.1
"""A file whose mean angle from the network is larger is not written."""
CHECKED_SIZES = ((1, 3, 2), (3, 2, 4))
"""Batch, and height and width in strides, of the checks: none of them is what it is traced with."""

Array = NDArray[np.float32]


def export(kinds: str, model_dir: Path, *, parity_degrees: float = PARITY_DEGREES) -> None:
    """Write what `kinds` (`none`, `torch`, `onnx` or `all`) asks for beside the artifact in `model_dir`.

    What goes wrong is logged and left out: the artifact is there, and must not be lost for it.
    """
    if kinds == "none":
        return
    for talkative in ("onnx_ir", "torch.onnx"):  # about every constant, and their own signatures
        logging.getLogger(talkative).setLevel(logging.ERROR)
    network, _ = load_artifact(model_dir)
    program: torch.export.ExportedProgram | None = None
    written: dict[str, Any] = {}
    for kind in FILES if kinds == "all" else (kinds,):
        try:
            program = program or _trace(network)
            written[FILES[kind]] = _write(kind, program, network, model_dir, parity_degrees)
        except Exception as error:  # two compilers stand behind this, which raise what they like
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.exception("the model could not be exported as %s; it is complete without", FILES[kind])
            written[FILES[kind]] = {"failed": cause}
    write_atomically(model_dir / "export.json", json.dumps(written, indent=2).encode())


def _write(
    kind: str,
    program: torch.export.ExportedProgram,
    network: SurfaceNormalNetwork,
    model_dir: Path,
    parity_degrees: float,
) -> dict[str, Any]:
    """Write one file and return what export.json says of it. Raises ValueError when it is not the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        data, normals_of = (_to_torch if kind == "torch" else _to_onnx)(program)
        difference = _difference_degrees(network, normals_of)
    if difference >= parity_degrees:
        raise ValueError(f"its normals are {difference:.3f} degrees from the network's")
    write_atomically(model_dir / FILES[kind], data)
    logger.info("%s written: %.1e degrees from the network", FILES[kind], difference)
    facts = {
        "mean_difference_degrees": difference,
        "side_multiple_of": network.stride,
        "weights_sha256": hashlib.sha256((model_dir / WEIGHTS).read_bytes()).hexdigest(),
    }
    return facts if kind == "torch" else {**facts, "opset": ONNX_OPSET}


def _trace(network: SurfaceNormalNetwork) -> torch.export.ExportedProgram:
    """The network for any batch, height and width."""
    stride, dim = network.stride, torch.export.Dim
    height, width = (stride * dim(name, min=1, max=MAX_SIDE // stride) for name in ("rows", "columns"))
    example = torch.rand(2, 3, 3 * stride, 5 * stride, generator=torch.Generator().manual_seed(0))
    shapes = ({0: dim("batch", min=1, max=MAX_BATCH), 2: height, 3: width},)
    return torch.export.export(network, (example,), dynamic_shapes=shapes)


def _to_torch(program: torch.export.ExportedProgram) -> tuple[bytes, Callable[[Array], Array]]:
    """The file's bytes, and how to get normals from them."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()

    def normals_of(picture: Array) -> Array:
        with torch.inference_mode():
            normals: Array = module(torch.from_numpy(picture))[0].numpy()
        return normals

    return file.getvalue(), normals_of


def _to_onnx(program: torch.export.ExportedProgram) -> tuple[bytes, Callable[[Array], Array]]:
    """The same for ONNX."""
    import onnxruntime  # seconds that only this needs

    onnx_program = torch.onnx.export(
        program,
        opset_version=ONNX_OPSET,
        input_names=["picture"],
        output_names=["normals", "concentration"],
        dynamo=True,
        verbose=False,
    )
    if onnx_program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    data = onnx_program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def normals_of(picture: Array) -> Array:
        normals: Array = session.run(["normals"], {"picture": picture})[0]
        return normals

    return data, normals_of


def _difference_degrees(network: SurfaceNormalNetwork, normals_of: Callable[[Array], Array]) -> float:
    """Mean angle between the file's normals and the network's, on noise, the largest of all CHECKED_SIZES."""
    random, differences = np.random.default_rng(0), []
    for batch, rows, columns in CHECKED_SIZES:
        picture = random.random((batch, 3, rows * network.stride, columns * network.stride), np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(picture))[0].numpy()
        angles = angular_error_degrees(np.moveaxis(normals_of(picture), 1, 3), np.moveaxis(expected, 1, 3))
        differences.append(float(angles.mean()))
    return max(differences)
