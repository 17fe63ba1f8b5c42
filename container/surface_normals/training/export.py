"""End of a job: the model for runtimes without our code, when asked for, each file proven against the network.

model.pt2    a `torch.export` program, read by `torch.export.load`
model.onnx   for ONNX Runtime and what else reads ONNX
export.json  what was written, and how far its normals are from the network's

Both take `picture`, float32 (B, 3, H, W), RGB in 0..1, H and W multiples of the network's stride, and
give `normals` (B, 3, H, W) in `rdf` and `concentration` (B, 1, H, W). Normalisation is inside.

Two compilers stand behind this. Each file is written by a process of its own, `python -m
surface_normals.training.export KIND MODEL_DIR DEGREES`: whatever becomes of it, the trained model stays.
"""

import ctypes
import hashlib
import io
import json
import logging
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surface_normals.artifact import load_artifact, partial_of, write_atomically
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

LIMIT_SECONDS = 1800.0
"""For each file, which takes a minute or a few."""
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1

Array = NDArray[np.float32]


def export(
    kinds: str,
    model_dir: Path,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    parity_degrees: float = PARITY_DEGREES,
    limit_seconds: float = LIMIT_SECONDS,
) -> None:
    """Write what `kinds` (`none`, `torch`, `onnx` or `all`) asks for beside the artifact in `model_dir`.

    What goes wrong is logged and left out: the artifact is there, and must not be lost for it.
    """
    if kinds == "none":
        return
    written = {}
    for kind in FILES if kinds == "all" else (kinds,):
        path = model_dir / FILES[kind]
        logger.info("writing %s, a minute or more", path.name)
        try:
            written[path.name] = _in_a_process(kind, model_dir, parity_degrees, limit_seconds, should_stop)
        except (OSError, RuntimeError) as error:
            logger.error("the model is not exported as %s, but complete without: %s", path.name, error)
            written[path.name] = {"failed": str(error)}
            for left in (path, partial_of(path)):
                left.unlink(missing_ok=True)
        else:
            difference = written[path.name]["mean_difference_degrees"]
            logger.info("%s written: %.1e degrees from the network", path.name, difference)
    try:
        write_atomically(model_dir / "export.json", json.dumps(written, indent=2).encode())
    except OSError as error:
        logger.error("export.json is not written, the model is complete without: %s", error)


def _in_a_process(
    kind: str,
    model_dir: Path,
    parity_degrees: float,
    limit_seconds: float,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Write one file; what export.json says of it. Raises RuntimeError or OSError saying why there is none."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, kind, str(model_dir.absolute()), str(parity_degrees)],
        cwd=Path(__file__).parents[2],  # where -m finds this package
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    deadline = time.monotonic() + limit_seconds
    problem = None
    while True:
        try:
            out, log = process.communicate(timeout=POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if should_stop():
                problem = "the job was stopped"
            elif time.monotonic() > deadline:
                problem = f"it was not done within {limit_seconds:g} s"
            if problem:
                process.kill()
    if problem:
        raise RuntimeError(problem)
    if process.returncode:
        if log.strip():
            logger.warning("the export of %s wrote: %s", FILES[kind], log[-4000:])
        if process.returncode < 0:
            raise RuntimeError(f"its process was ended by {signal.Signals(-process.returncode).name}")
        raise RuntimeError((log.strip() or f"exit code {process.returncode}").splitlines()[-1])
    try:
        facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise RuntimeError(f"its process said nothing of it but {out[-200:]!r}") from error
    return facts


def main() -> None:
    """Inside that process: write the file, print what export.json says of it."""
    kind, model_dir, parity_degrees = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # end with the training process
    with suppress(OSError):  # where memory ends the kernel shall take this process, not the training's
        Path("/proc/self/oom_score_adj").write_text("1000")
    for talkative in ("onnx_ir", "torch.onnx"):  # about every constant, and their own signatures
        logging.getLogger(talkative).setLevel(logging.ERROR)
    network, _ = load_artifact(model_dir)
    print(json.dumps(_write(kind, _trace(network), network, model_dir, parity_degrees)))


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


if __name__ == "__main__":
    main()
