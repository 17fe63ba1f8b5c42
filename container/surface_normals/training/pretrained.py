"""Start of the encoder: ImageNet weights from a file the user gives, or random because the user said so."""

import hashlib
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from surface_normals.network import ResNetEncoder, SurfaceNormalNetwork
from surface_normals.training.config import Config

logger = logging.getLogger(__name__)

CHANNEL = "pretrained"
FILE_PATTERN = "resnet18-????????.pth"
"""torchvision names its weights so (resnet18-f37072fd.pth): the digits begin the file's SHA-256."""


def start_encoder(network: SurfaceNormalNetwork, config: Config, channels: Mapping[str, Path]) -> bool:
    """Load what `config.encoder_weights` asks for. True when weights were loaded.

    Raises ValueError when the file is missing or not the one its name says: a silent random start
    would cost the user many degrees.
    """
    if not isinstance(network.encoder, ResNetEncoder) or config.encoder_weights == "random":
        logger.info("the encoder starts at random")
        return False
    found = sorted(channels[CHANNEL].glob(FILE_PATTERN)) if CHANNEL in channels else []
    if len(found) != 1:
        raise ValueError(
            f"size={config.size} starts from ImageNet weights: channel {CHANNEL!r} must hold torchvision's "
            f"resnet18-f37072fd.pth (found {len(found)} files {FILE_PATTERN}); encoder_weights=random does without"
        )
    path = found[0]
    digits = path.stem.split("-")[1]
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digits):
        raise ValueError(f"channel {CHANNEL!r}: {path} is damaged: its SHA-256 does not begin with {digits}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # tensors only, no objects
        body = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
        network.encoder.body.load_state_dict(body)
    except (RuntimeError, pickle.UnpicklingError, AttributeError) as error:
        cause = str(error).splitlines()[-1].strip()
        raise ValueError(f"channel {CHANNEL!r}: {path} does not hold resnet18's weights: {cause}") from error
    logger.info("the encoder starts from %s", path)
    return True
