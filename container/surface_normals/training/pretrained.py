"""Start of the network: weights from a channel that the user gives, or random because the user said so.

Channel `model` holds a model of ours to go on from, channel `pretrained` an encoder's ImageNet
weights as torchvision or timm publish them. Nothing is ever downloaded, nothing unpickled.
"""

import hashlib
import logging
import pickle
import re
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from surface_normals.artifact import load_artifact
from surface_normals.description import DESCRIPTION, WEIGHTS
from surface_normals.encoders import Encoder
from surface_normals.network import SurfaceNormalNetwork
from surface_normals.training.config import Config

logger = logging.getLogger(__name__)

MODEL_CHANNEL, ENCODER_CHANNEL = "model", "pretrained"
ARCHIVE = "model.tar.gz"
"""What SageMaker makes of a job's model; a channel brings it as it is."""


def start_network(
    network: SurfaceNormalNetwork, config: Config, channels: Mapping[str, Path]
) -> tuple[str, ...]:
    """Load what the channels and `config.encoder_weights` ask for; what the names of the loaded parameters begin with.

    Raises ValueError when a file is missing, damaged, or of another network: a silent random start
    would cost the user many degrees.
    """
    if MODEL_CHANNEL in channels:
        _load_model(network, channels[MODEL_CHANNEL])
        return ("",)  # all of them do
    encoder = network.encoder
    if not encoder.weights_file or config.encoder_weights == "random":
        logger.info("the encoder starts at random")
        return ()
    if config.encoder_weights == "imagenet":
        path = _find_weights(network.shape.encoder, encoder.weights_file, channels.get(ENCODER_CHANNEL))
    else:
        path = _named_weights(network.shape.encoder, encoder.weights_file, Path(config.encoder_weights))
    _load_body(encoder, path)
    logger.info("the encoder starts from %s", path)
    return ("encoder.body.",)


def _load_model(network: SurfaceNormalNetwork, folder: Path) -> None:
    """All weights from the artifact in `folder`, as files or as SageMaker's archive of them."""
    try:
        if (folder / ARCHIVE).is_file():
            with tempfile.TemporaryDirectory() as unpacked:
                _unpack(folder / ARCHIVE, Path(unpacked))
                start, _ = load_artifact(Path(unpacked))
        else:
            start, _ = load_artifact(folder)
    except (ValueError, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(
            f"channel {MODEL_CHANNEL!r}: {folder} holds no model to go on from: {error}"
        ) from error
    if start.shape != network.shape:
        raise ValueError(
            f"channel {MODEL_CHANNEL!r}: the model in {folder} is {start.shape}, the hyperparameters ask for "
            f"{network.shape}; set size, encoder and intrinsics as that model's job had them"
        )
    network.load_state_dict(start.state_dict())
    logger.info("the whole network starts from the model in %s", folder)


def _unpack(archive: Path, folder: Path) -> None:
    """The two files of an artifact, and nothing else, whatever path they have in the archive."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and name in (WEIGHTS, DESCRIPTION):
                source = tar.extractfile(member)
                if source is not None:
                    (folder / name).write_bytes(source.read())


def _find_weights(encoder: str, expected: str, folder: Path | None) -> Path:
    """The file in `folder` that is named after the encoder."""
    pattern = _pattern(expected)
    files = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    found = [path for path in files if pattern.fullmatch(path.name)]
    if len(found) != 1:
        holds = (
            "is not there"
            if folder is None
            else f"holds {', '.join(path.name for path in files) or 'nothing'}"
        )
        raise ValueError(
            f"encoder {encoder} starts from ImageNet weights: channel {ENCODER_CHANNEL!r} must hold one file "
            f"{expected}, and {holds}; encoder_weights=random does without"
        )
    return _undamaged(found[0], pattern)


def _named_weights(encoder: str, expected: str, path: Path) -> Path:
    """The file that the caller named."""
    pattern = _pattern(expected)
    if not path.is_file():
        raise ValueError(f"encoder_weights={path}: there is no such file")
    if not pattern.fullmatch(path.name):
        raise ValueError(f"encoder_weights={path}: encoder {encoder} starts from a file named {expected}")
    return _undamaged(path, pattern)


def _pattern(expected: str) -> re.Pattern[str]:
    """The names that the encoder's file may have, with the beginning of its SHA-256 or without."""
    name = re.sub("-[0-9a-f]{8}$", "", expected.removesuffix(".safetensors").removesuffix(".pth"))
    names = f"{re.escape(name)}|{re.escape(name.partition('.')[0])}"  # timm: a tag may follow a dot
    return re.compile(rf"(?:{names})(?:-([0-9a-f]{{8}}))?\.(?:pth|safetensors)")


def _undamaged(path: Path, pattern: re.Pattern[str]) -> Path:
    match = pattern.fullmatch(path.name)
    digits = match[1] if match else None
    if digits and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digits):
        raise ValueError(f"encoder weights {path} are damaged: their SHA-256 does not begin with {digits}")
    return path


def _load_body(encoder: Encoder, path: Path) -> None:
    """Published weights into the encoder's own module; what is left over may only be of its classifier."""
    body = encoder.get_submodule("body")
    try:
        weights = _read_weights(path)
        result = body.load_state_dict(weights, strict=False)
        problems = [*result.missing_keys, *_not_of_a_classifier(result.unexpected_keys, body)]
        if problems:
            raise RuntimeError(f"{len(problems)} names do not agree, the first is {problems[0]!r}")
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        cause = str(error).splitlines()[-1].strip() if str(error) else "it ends too early"
        raise ValueError(
            f"encoder weights: {path} does not hold the weights of this encoder: {cause}"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    weights = torch.load(path, map_location="cpu", weights_only=True)  # tensors only, no objects
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def _not_of_a_classifier(names: list[str], body: nn.Module) -> list[str]:
    """Those that belong to a part which the encoder has too: there the two differ."""
    parts = {name.partition(".")[0] for name in body.state_dict()}
    return [name for name in names if name.partition(".")[0] in parts]
