"""Before `train` and `tune`: hyperparameters held against the model's own `Config`, with the code the job will use."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from launching.calls import ROOT, LaunchError
from launching.request import assignments

DOCUMENTED_VALUE_CHARACTERS = 256  # the API's prose; boto3's description says 2500


def add_hyperparameters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--hyperparameter", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("--hyperparameters", default="{}", metavar="JSON", help="the same as one JSON object")
    package = os.environ.get("MODEL_PACKAGE") or "surface_normals"
    add("--model-package", default=package, help="the folder in container/ that the image was built with")


def checked_hyperparameters(options: argparse.Namespace) -> dict[str, str]:
    """As SageMaker's strings. Raises LaunchError."""
    hyperparameters = read_hyperparameters(options.hyperparameters, options.hyperparameter)
    check_hyperparameters(hyperparameters, options.model_package)
    return hyperparameters


def read_hyperparameters(text: str, given: Sequence[str]) -> dict[str, str]:
    """Both ways of giving them; `--hyperparameter` wins. Raises LaunchError."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise LaunchError(f"--hyperparameters is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise LaunchError("--hyperparameters must be a JSON object, such as '{\"epochs\": 20}'")
    hyperparameters = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
    }
    hyperparameters |= assignments(given, "--hyperparameter")
    for name, value in hyperparameters.items():
        if len(value) > DOCUMENTED_VALUE_CHARACTERS:
            print(f"{name}: AWS documents {DOCUMENTED_VALUE_CHARACTERS} characters at most", file=sys.stderr)
    return hyperparameters


def check_hyperparameters(hyperparameters: dict[str, str], package: str) -> None:
    """Let the model's own `Config` judge them. Raises LaunchError."""
    container = str(ROOT / "container")
    if container not in sys.path:
        sys.path.insert(0, container)
    from model_api import ModelPackageError, load_training
    from training.hyperparameters import resolve

    try:
        config, _ = load_training(package)
        resolve(config, hyperparameters)
    except (ModelPackageError, ValueError) as error:
        raise LaunchError(str(error)) from None
    except ImportError as error:  # a model may need more than launching does
        print(f"the hyperparameters are not checked here: {error}", file=sys.stderr)


def read_metric_definitions(package: str) -> list[dict[str, str]]:
    """What CloudWatch is to read out of the job's log: shipped beside the model that prints it."""
    path = ROOT / "container" / package / "metric_definitions.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"no {path.relative_to(ROOT)}: is --model-package {package!r} right?") from None
