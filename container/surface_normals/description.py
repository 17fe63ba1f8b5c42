"""The artifact's description, model.json: what the weights beside it are, and the conventions they speak in.

Read by every engine, also where torch is not installed.
"""

import json
from pathlib import Path
from typing import Any

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONVENTIONS: dict[str, Any] = {
    "axes": "rdf",
    "normalisation": {
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "range": [0, 1],
        "order": "RGB",
    },
}
"""What the network's code takes for granted; a model that states others is refused."""


def can_tile(encoder: str) -> bool:
    """Whether a network with this encoder can be told all figures of a picture of which it sees a tile.

    Attention and squeeze-excitation have others than tiling.py knows.
    """
    return encoder.startswith(("plain", "resnet", "convnext"))


def read_description(model_dir: Path) -> dict[str, Any]:
    """What model.json says. Raises ValueError when it or the weights are missing, or it is not of this format."""
    path = model_dir / DESCRIPTION
    if not path.is_file() or not (model_dir / WEIGHTS).is_file():
        found = ", ".join(sorted(entry.name for entry in model_dir.glob("*"))[:5]) or "nothing"
        raise ValueError(f"{model_dir} has no {WEIGHTS} with {DESCRIPTION}; it holds {found}")
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']!r}; this version reads format {FORMAT}")
        if not isinstance(description["architecture"]["encoder"], str):
            raise ValueError("its architecture names no encoder")
        for name, value in CONVENTIONS.items():
            if description[name] != value:
                raise ValueError(f"{name} {description[name]!r}; this version has {value!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a model of ours: {error!r}") from error
    return description
