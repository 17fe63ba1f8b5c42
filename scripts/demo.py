"""The whole loop on this machine, without Docker, a GPU or an AWS account: `make demo`.

Makes a small data set, trains on it through container/train, starts container/serve on the model,
sends it pictures it was not trained on, and shows what came back: a table and .demo/demo.png.
"""

import argparse
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import requests
from tqdm import tqdm

from sample_job import write_pictures, write_sample_job

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "container"))

from surface_normals.codecs import lilac  # noqa: E402
from surface_normals.training.dataset import PictureDataset, Sample  # noqa: E402
from surface_normals.training.evaluation import (  # noqa: E402
    THRESHOLDS_DEGREES,
    AngularErrors,
    angular_error_degrees,
    constant_predictions,
    evaluate_constant,
)

ROWS_SHOWN = 6
READY_SECONDS = 120
LOOPBACK = requests.Session()
LOOPBACK.trust_env = False  # a proxy that the environment names is not for this machine itself


def main() -> None:
    """Run the loop and say where its results are."""
    arguments = parse_arguments()
    folder: Path = arguments.folder.resolve()
    started = time.monotonic()
    if folder.exists() and any(folder.iterdir()) and not (folder / "opt").is_dir():
        sys.exit(f"demo: {folder} holds something else, and it would be emptied: name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    base_dir, unseen_dir = folder / "opt" / "ml", folder / "unseen"

    say("1/4  making pictures with known normals")
    write_sample_job(base_dir)
    write_pictures(unseen_dir, "unseen")

    say("2/4  training: container/train on the folders that SageMaker would mount")
    train(base_dir)

    say("3/4  serving: container/serve answers pictures it was not trained on")
    unseen = PictureDataset("unseen", unseen_dir)
    with server(base_dir) as url:
        predictions = [
            invoke(url, path) for path in tqdm([unseen.images[n] for n in unseen.names], unit=" pictures")
        ]

    say("4/4  measuring")
    samples = [unseen[index] for index in range(len(unseen))]
    rows = measure(samples, predictions, PictureDataset("train", base_dir / "input/data/train"))
    table = format_table(rows)
    (folder / "table.txt").write_text(table)
    draw(samples[:ROWS_SHOWN], predictions[:ROWS_SHOWN], rows, folder / "demo.png")
    print(f"\n{len(samples)} unseen pictures, angular error in degrees:\n\n{table}")
    print(f"picture: {folder / 'demo.png'}\n{time.monotonic() - started:.0f} seconds in all", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".demo",
        help="where everything is written (.demo); emptied first",
    )
    return parser.parse_args()


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def train(base_dir: Path) -> None:
    status = subprocess.run([ROOT / "container" / "train"], env=program_environment(base_dir)).returncode
    if status:
        sys.exit(f"training ended with exit code {status}; the cause is the last line above")


@contextmanager
def server(base_dir: Path) -> Iterator[str]:
    """The address of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**program_environment(base_dir), "SAGEMAKER_BIND_TO_PORT": str(port)}
    process = subprocess.Popen([ROOT / "container" / "serve"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not answers_ping(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the server did not get ready; the cause is the last line above")
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


def answers_ping(url: str) -> bool:
    try:
        return LOOPBACK.get(f"{url}/ping", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def invoke(url: str, picture: Path) -> np.ndarray:
    """One picture's normals, float32 (H, W, 3)."""
    headers = {"Content-Type": "image/png", "Accept": "application/x-npy"}
    answer = LOOPBACK.post(f"{url}/invocations", data=picture.read_bytes(), headers=headers, timeout=60)
    if answer.status_code != 200:
        sys.exit(f"the server answered {answer.status_code} for {picture}: {answer.text}")
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def program_environment(base_dir: Path) -> dict[str, str]:
    """What the images set, and where this run's /opt/ml is."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT / "container"),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",  # so small a network gains little from more, and loses much on a busy machine
        "SAGEMAKER_BASE_DIR": str(base_dir),
    }


def measure(
    samples: list[Sample], predictions: list[np.ndarray], training_set: PictureDataset
) -> dict[str, dict[str, float]]:
    """The eight numbers by row: the model's, and those of the answers that do not look."""
    errors = AngularErrors()
    for sample, prediction in zip(samples, predictions, strict=True):
        errors.add(prediction, sample.normals, sample.valid)
    constants = constant_predictions(training_set)
    return {
        "the model": errors.metrics(),
        **{name: evaluate_constant(c, samples) for name, c in constants.items()},
    }


def format_table(rows: dict[str, dict[str, float]]) -> str:
    heads = ["mean", "median", "RMSE", *(f"< {threshold:g}" for threshold in THRESHOLDS_DEGREES)]
    lines = [f"{'':26}" + "".join(f"{head:>9}" for head in heads)]
    for name, metrics in rows.items():
        cells = [f"{value:9.1f}" if i < 3 else f"{value:8.1f}%" for i, value in enumerate(metrics.values())]
        lines.append(f"{name:26}" + "".join(cells))
    model, best = (
        rows["the model"]["mean_angular_error"],
        min(m["mean_angular_error"] for n, m in rows.items() if n != "the model"),
    )
    lines.append(f"\nThe model's mean error is {100 * model / best:.0f} % of the best constant answer's.")
    return "\n".join(lines) + "\n"


def draw(
    samples: list[Sample], predictions: list[np.ndarray], rows: dict[str, dict[str, float]], path: Path
) -> None:
    """picture | predicted normals | truth | angular error, one row for each sample; not chosen, the first ones."""
    mpl.use("Agg")
    from matplotlib import pyplot

    best = min(metrics["mean_angular_error"] for name, metrics in rows.items() if name != "the model")
    figure, axes = pyplot.subplots(
        len(samples), 4, figsize=(10, 1.56 * len(samples) + 0.8), layout="constrained", squeeze=False
    )
    figure.suptitle(
        f"Surface normals of pictures the model has not seen: mean error "
        f"{rows['the model']['mean_angular_error']:.1f} degrees (best constant answer: {best:.1f})"
    )
    for row, sample, prediction in zip(axes, samples, predictions, strict=True):
        grey = np.where(sample.valid[:, :, None], 0, 40).astype(np.uint8)  # no surface, so no truth
        error = np.where(sample.valid, angular_error_degrees(prediction, sample.normals), np.nan)
        row[0].imshow(sample.picture)
        row[1].imshow(np.where(sample.valid[:, :, None], lilac(prediction), grey))
        row[2].imshow(np.where(sample.valid[:, :, None], lilac(sample.normals), grey))
        heat = row[3].imshow(error, cmap="inferno", vmin=0, vmax=60)
        row[3].set_facecolor("0.16")
        row[3].set_ylabel(f"mean {np.nanmean(error):.1f}°", rotation=0, ha="left", va="center")
        row[3].yaxis.set_label_coords(1.04, 0.5)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[0], ("picture", "predicted normals", "truth", "angular error"), strict=True):
        axis.set_title(title)
    figure.colorbar(heat, ax=axes[:, 3], label="degrees", shrink=0.5, pad=0.3, extend="max")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
