"""What every server of the benchmark is given: the model, the picture, and what the answer must be."""

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 320, 240
REQUEST_TYPE, ANSWER_TYPE = "image/jpeg", "application/x-npy"
FULL_ANSWER_TYPE = "application/x-npy;dtype=float32;axes=rdf;confidence=no"
"""What `encode` is told where nobody asks for anything else."""


def make_model(folder: Path, size: str) -> None:
    """A network of this size at random, in all its forms: as fast as one that was trained."""
    import torch

    from surface_normals.artifact import save_artifact
    from surface_normals.network import SHAPES, SurfaceNormalNetwork
    from surface_normals.training.export import export

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    network = SurfaceNormalNetwork(SHAPES[size])
    with torch.no_grad():
        network.head.bias[2] -= (
            3  # its normals face the camera, as everyone's do: else rounding turns them more
        )
    save_artifact(folder, network, {})
    export("onnx", folder)
    facts = json.loads((folder / "export.json").read_text())["model.onnx"]
    if "failed" in facts:
        raise RuntimeError(f"the model was not exported: {facts['failed']}")


def make_null_model(folder: Path) -> None:
    """A folder that is not empty."""
    folder.mkdir(parents=True)
    (folder / "nothing").touch()


def picture() -> bytes:
    """A rendered scene as a camera's JPEG."""
    from surface_normals.training.synthetic import render

    file = io.BytesIO()
    Image.fromarray(render(1, WIDTH, HEIGHT, "rooms").image).save(file, "JPEG", quality=92)
    return file.getvalue()


def normals_of(answer: bytes) -> NDArray[np.float32]:
    """The normal map in an answer. Raises ValueError when it is not one of the picture's size."""
    normals: NDArray[np.float32] = np.load(io.BytesIO(answer), allow_pickle=False)
    if normals.shape != (HEIGHT, WIDTH, 3) or normals.dtype != np.float32:
        raise ValueError(f"the answer is {normals.dtype} {normals.shape}")
    return normals


def mean_angle_degrees(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between two normal maps."""
    cosine = np.sum(one.astype(np.float64) * other, axis=2)
    sine = np.linalg.norm(np.cross(one.astype(np.float64), other), axis=2)
    return float(np.degrees(np.arctan2(sine, cosine)).mean())
