"""dataset.json: what a channel says about its truth, checked before any of it is read."""

import json
from dataclasses import dataclass
from pathlib import Path

from surface_normals import axes
from surface_normals.training.shards import StoredFile

DESCRIPTION = "dataset.json"
EXAMPLE = '{"axes": "rdf", "coding": "png16", "invalid": "zero"}'
DEPTH_EXAMPLE = '{"depth": "z", "coding": "png16"}'
CHOICES = {
    "normals": {
        "axes": tuple(axes.TO_RDF),
        "coding": ("png8", "png16", "npy", "npz"),
        "invalid": ("zero", "mask", "alpha"),
    },
    "depth": {"depth": ("z", "ray"), "coding": ("png16", "npy", "npz")},
}
NOTES = ("converted_from", "generator")
"""Where a data set is from, as our own tools write it; nothing hangs on it."""


@dataclass(frozen=True)
class Description:
    """How the truth of a channel is stored."""

    kind: str
    """`normals` or `depth`: the folder that it is in"""
    coding: str
    axes: str = "rdf"
    invalid: str = "zero"
    depth: str = "z"
    """what a depth is: `z`, or the length of the pixel's `ray`"""


def read_description(path: StoredFile) -> Description:
    """The description in a file. Raises ValueError, saying what is missing or wrong in it."""
    if isinstance(path, Path) and not path.is_file():
        raise ValueError(f"no {path}; it states how normals are stored, for example {EXAMPLE}")
    try:
        stated = json.loads(path.read_text())
        kind = "depth" if "depth" in stated else "normals"
        values = {key: stated[key] for key in CHOICES[kind]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be JSON like {EXAMPLE}, or {DEPTH_EXAMPLE} with depth/: {error!r}"
        ) from error
    if stated.get("space", "camera") != "camera":
        raise ValueError(
            f"{path}: space is {stated['space']!r}; normals must be in the camera's space: turn each by its picture's "
            "rotation from the world to the camera"
        )
    if unknown := stated.keys() - {*CHOICES[kind], *NOTES, "space"}:
        raise ValueError(
            f"{path}: {', '.join(sorted(unknown))} is nothing that is known with {kind}/: there are "
            f"{', '.join(CHOICES[kind])}; correct or remove it"
        )
    for key, value in values.items():
        if value not in CHOICES[kind][key]:
            raise ValueError(f"{path}: {key} is {value!r}; choose from {', '.join(CHOICES[kind][key])}")
    if values.get("invalid") == "alpha" and not values["coding"].startswith("png"):
        raise ValueError(
            f"{path}: invalid is 'alpha', but {values['coding']} has no alpha; choose zero or mask"
        )
    return Description(kind, **values)
