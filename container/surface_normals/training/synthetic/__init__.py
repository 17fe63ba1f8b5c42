"""Synthetic training data: ray-cast analytic scenes whose normals are known in closed form.

shapes -> textures -> rendering -> scenes -> dataset, each built on those before it. A model trained
on these pictures alone does not know real rooms: they prove that the whole path learns.
"""

from .dataset import picture_seed, write_dataset
from .rendering import Scene
from .scenes import KINDS, Look, render

__all__ = ["KINDS", "Look", "Scene", "picture_seed", "render", "write_dataset"]
