"""A small training job, laid out as SageMaker would mount it: generated pictures and hyperparameters.

`make sample-data` puts it under LOCAL_DIR/opt/ml for `make train-local`; `make demo` trains it too.
"""

import argparse
import json
import sys
from pathlib import Path

from make_sample_data import show_progress, usable_cores

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from surface_normals.training.synthetic import Look, write_dataset  # noqa: E402

WIDTH, HEIGHT = 96, 64
KIND = "objects"
# Round solids, plain surfaces and one light, so that a small network learns from them in three minutes.
LOOK = Look(
    solids=("sphere", "cylinder", "cone", "torus"),
    upright=1.0,
    texture_contrast=(0.0, 0.15),
    lights=(1, 1),
    ambient_share=(0.25, 0.4),
    gloss=0.2,
    sensor_noise=0.005,
)
COUNTS = {"train": 1000, "validation": 40, "unseen": 100}
HYPERPARAMETERS = {  # strings, as SageMaker passes them
    "size": "tiny",
    "epochs": "11",
    "batch_size": "8",
    "learning_rate": "0.001",
    "crop_height": str(HEIGHT),
    "crop_width": str(WIDTH),
    "evaluate_epochs": "3",
    "workers": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base_dir", type=Path, help="what the container sees as /opt/ml")
    try:
        write_sample_job(parser.parse_args().base_dir)
    except OSError as error:
        sys.exit(f"sample_job: {error}")


def write_sample_job(base_dir: Path) -> None:
    """Write the channels `train` and `validation`, and hyperparameters.json unless there is one.

    Raises FileExistsError when the channel `train` holds something already.
    """
    path = base_dir / "input" / "config" / "hyperparameters.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(HYPERPARAMETERS, indent=2) + "\n")
    # `train` last: it is what `make train-local` looks for. An interrupted run leaves no half channel.
    for channel in ("validation", "train"):
        folder = base_dir / "input" / "data" / channel
        if channel == "train" or not folder.exists():
            write_pictures(folder, channel)


def write_pictures(folder: Path, name: str) -> None:
    """Write the pictures called `name` (a key of COUNTS); each name has its own seed, so none is seen twice."""
    pictures = write_dataset(
        folder,
        count=COUNTS[name],
        width=WIDTH,
        height=HEIGHT,
        seed=sorted(COUNTS).index(name),
        kind=KIND,
        look=LOOK,
        workers=usable_cores(),
    )
    print(f"{folder}:", file=sys.stderr)
    show_progress(pictures, COUNTS[name])


if __name__ == "__main__":
    main()
