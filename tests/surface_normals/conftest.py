"""A model in all its forms: the exporters take their time, so one does for all tests."""

import pytest
import torch

from surface_normals.artifact import save_artifact
from surface_normals.network import Shape, SurfaceNormalNetwork
from surface_normals.training.export import export


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory):
    """A folder with the artifact, model.pt2 and model.onnx, of a network of two levels at random."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    save_artifact(folder, SurfaceNormalNetwork(Shape("plain", (8, 16), 8)), {})
    export("all", folder)
    return folder
