#!/usr/bin/env python3
"""Measure a trained model on a data set: the eight numbers of the field, as files for eyes and for pipelines.

MODEL is the folder that training left, a model.tar.gz, or a folder with one in it. Writes OUT/evaluation.json, in the
form that SageMaker's model registry and pipelines read, and OUT/per_image.csv. Runs here, in the training image, and
as a SageMaker Processing job (`launch.py process evaluate`).
"""

import argparse
import csv
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from surface_normals.torch_engine import load_engine
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import Evaluation, evaluate

ARCHIVE = "model.tar.gz"
WORKERS = 2
"""Processes that read pictures."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="a channel: images/, normals/ or depth/, dataset.json")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as unpacked:
            engine = load_engine(folder_of(arguments.model, Path(unpacked)))
            evaluation = evaluate(engine, PictureDataset("data", arguments.data), workers=WORKERS)
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"evaluate: {arguments.model}: {' '.join(str(error).split())}")
    assert evaluation is not None, "nobody stops it"
    write(evaluation, arguments.out)
    for name, value in evaluation.metrics().items():
        print(f"{name}={value:.4f};")


def folder_of(model: Path, unpacked: Path) -> Path:
    """The folder with the model's files; of an archive only files are unpacked. Raises ValueError for a way out of it.

    Not every Python from 3.10 on has tarfile's own filter for that.
    """
    archive = model / ARCHIVE if (model / ARCHIVE).is_file() else model
    if not archive.is_file():
        return model
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"the archive has a file {member.name!r} outside itself")
            source = tar.extractfile(member) if member.isfile() else None
            if source is not None:
                path = unpacked / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(source, file)
    return unpacked


def write(evaluation: Evaluation, out: Path) -> None:
    """Both files, each under a temporary name first: an upload may look at any moment."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"regression_metrics": {name: {"value": value} for name, value in evaluation.metrics().items()}}
    temporary = out / ".evaluation.json"
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    rows = [(picture.name, picture.metrics) for picture in evaluation.pictures if picture.metrics]
    temporary_rows = out / ".per_image.csv"
    with temporary_rows.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", *rows[0][1]])
        writer.writerows([name, *metrics.values()] for name, metrics in rows)
    temporary.rename(out / "evaluation.json")
    temporary_rows.rename(out / "per_image.csv")


if __name__ == "__main__":
    main()
