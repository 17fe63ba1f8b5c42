"""The artifact: what a training job leaves in /opt/ml/model and an endpoint finds there.

`model.safetensors` holds the weights, `model.json` all else that is needed to use them
(description.py). Nothing is ever unpickled.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from surface_normals.description import CONVENTIONS, DESCRIPTION, FORMAT, WEIGHTS, read_description
from surface_normals.network import Shape, SurfaceNormalNetwork


def save_artifact(model_dir: Path, network: SurfaceNormalNetwork, facts: dict[str, Any]) -> None:
    """Write both files or none. `facts` (sizes, metrics, versions, ...) are added to the description."""
    description = {"format": FORMAT, "architecture": asdict(network.shape), **CONVENTIONS, **facts}
    weights = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    write_together(
        {
            model_dir / WEIGHTS: save(weights),
            model_dir / DESCRIPTION: json.dumps(description, indent=2).encode(),
        }
    )


def load_artifact(model_dir: Path) -> tuple[SurfaceNormalNetwork, dict[str, Any]]:
    """The network, on the CPU and in evaluation mode, and its description.

    Raises ValueError when a file is missing, unreadable, or of another format or architecture.
    """
    description = read_description(model_dir)
    try:
        network = SurfaceNormalNetwork(_read_shape(description["architecture"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{model_dir / DESCRIPTION} does not describe a model of ours: {error!r}") from error
    try:
        network.load_state_dict(load_file(model_dir / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        cause = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{model_dir / WEIGHTS} does not fit the architecture in {DESCRIPTION}: {cause}"
        ) from error
    return network.eval(), description


def _read_shape(architecture: dict[str, Any]) -> Shape:
    """The stored shape; each value of its own type, as what builds the network is no place for surprises."""
    if unknown := architecture.keys() - {field.name for field in fields(Shape)}:
        raise ValueError(f"architecture has {', '.join(sorted(unknown))}, which this version does not know")
    shape = Shape(**{**architecture, "encoder_widths": tuple(architecture["encoder_widths"])})
    for value in (*shape.encoder_widths, shape.decoder_width):
        if type(value) is not int or value < 1:
            raise ValueError(f"architecture has a width of {value!r}")
    return shape


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a hidden temporary name beside `path`, flush to the disk, rename; when that fails, leave nothing."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """The same for files that need one another: none has its name before all are on the disk."""
    try:
        for path, data in files.items():
            with partial_of(path).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            partial_of(path).replace(path)
    finally:
        for path in files:
            partial_of(path).unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The temporary name: always the same, so that a kill leaves at most one behind."""
    return path.with_name(f".{path.name}.partial")
