"""One side of the race, as a process of its own with one thread: its errors by its own processor time.

usage: contestant.py textbook|ours DATA RESULT JSON
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "scripts")]

from learning_benchmark import textbook  # noqa: E402
from surface_normals.training import Config, train  # noqa: E402
from surface_normals.training.batches import training_batches  # noqa: E402
from surface_normals.training.dataset import PictureDataset  # noqa: E402
from surface_normals.training.evaluation import AngularErrors  # noqa: E402
from surface_normals.training.trainer import Trainer  # noqa: E402

SHARE_PLANNED = 0.93
"""Of the time, filled with steps as fast as the first ones were: checkpoints and a slower machine take the rest."""
MEASUREMENTS = 12


class Clock:
    """Processor seconds of this process, all threads, without those that measuring took."""

    def __init__(self) -> None:
        self.started = time.process_time()

    def seconds(self) -> float:
        return time.process_time() - self.started

    def leave_out(self, seconds: float) -> None:
        self.started += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        before = time.process_time()
        try:
            yield
        finally:
            self.leave_out(time.process_time() - before)


class Curve:
    """The file of measurements, a line of JSON each: another process reads it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def add(self, seconds: float, step: int, error_degrees: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"seconds": seconds, "step": step, "error_degrees": error_degrees}) + "\n")


def run_textbook(data: Path, curve: Curve, *, seconds: float, seed: int = 0) -> None:
    pictures, normals = textbook.load(data / "train")
    unseen, _ = textbook.load(data / "unseen")
    samples = PictureDataset("unseen", data / "unseen")
    clock = Clock()

    def epoch_done(network: torch.nn.Module, step: int) -> None:
        at = clock.seconds()
        with clock.paused():
            errors = AngularErrors()
            for index, prediction in enumerate(textbook.predict(network, unseen)):
                sample = samples[index]
                errors.add(prediction.permute(1, 2, 0).numpy(), sample.normals, sample.valid)
            curve.add(at, step, errors.metrics()["mean_angular_error"])

    textbook.train(
        pictures,
        normals,
        seed=seed,
        epoch_done=epoch_done,
        should_stop=lambda: clock.seconds() >= seconds,
    )


def run_ours(data: Path, curve: Curve, *, config: dict[str, object], seconds: float = 0) -> None:
    """Through the project's own `train`, for as many epochs as fit into `seconds`, or as `config` says."""
    channels = {"train": data / "train", "validation": data / "unseen"}
    if (data / "pretrained").is_dir():
        channels["pretrained"] = data / "pretrained"
    config = {"workers": 0, **config}
    if seconds:
        config["epochs"] = epochs_that_fit(Config(**config), channels, seconds)
    epochs = Config(**config).epochs
    config.setdefault("evaluate_epochs", max(1, round(epochs / MEASUREMENTS)))
    clock = Clock()
    trained_until = measuring = 0.0

    def report(name: str, value: float, step: int) -> None:
        """The numbers of training come right before a measurement, those of the measurement right after it."""
        nonlocal trained_until, measuring
        if not name.startswith("val_"):
            trained_until, measuring = clock.seconds(), False
            return
        if not measuring:
            clock.leave_out(clock.seconds() - trained_until)
            measuring = True
        if name == "val_mean_angular_error":
            curve.add(trained_until, step, value)

    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(folder) / name for name in ("model_dir", "output_dir", "checkpoint_dir")}
        for path in folders.values():
            path.mkdir()
        train(Config(**config), channels=channels, report=report, should_stop=lambda: False, **folders)


def epochs_that_fit(config: Config, channels: dict[str, Path], seconds: float) -> int:
    """By the time of a few steps."""
    dataset = PictureDataset("train", channels["train"])
    trainer = Trainer(config, channels, num_steps=1000)
    batches = training_batches(config, dataset, 0, 1000)
    for _ in range(3):
        trainer.train_step(next(batches))
    clock, steps = Clock(), 10
    for _ in range(steps):
        trainer.train_step(next(batches))
    steps_that_fit = SHARE_PLANNED * seconds / (clock.seconds() / steps)
    return max(1, int(steps_that_fit / -(-len(dataset) // config.pictures_a_step)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, data, result, options = sys.argv[1:]
    run = {"textbook": run_textbook, "ours": run_ours}[side]
    run(Path(data), Curve(Path(result)), **json.loads(options))
