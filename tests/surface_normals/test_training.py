"""The training half as the contract layer calls it, on small generated pictures."""

import dataclasses
import json
import time

import pytest
import torch
from safetensors.torch import load_file

from surface_normals.training import Config, train
from surface_normals.training.checkpoints import load_checkpoint, save_checkpoint
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.evaluation import constant_predictions, evaluate_constant
from surface_normals.training.synthetic.dataset import write_dataset

SMALL = Config(size="tiny", crop_height=64, crop_width=64, batch_size=4, workers=0)
ASKED_BEFORE = 6
"""Whether to stop, before the first step: for each of the four pictures looked at, after these, before the steps."""


@pytest.fixture(scope="module")
def four_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=4, width=64, height=64, seed=3, kind="objects"):
        pass
    return folder


class Job:
    """Folders of one job, what it reported, and how often it may ask before it is stopped."""

    def __init__(self, folder):
        self.folder, self.reported = folder, []
        for name in ("model", "output", "checkpoints"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, config, channels, stop_after=None, stop_when=lambda: False):
        """`stop_after` so many times that it was asked, or at once when `stop_when()`."""
        asked = 0

        def should_stop():
            nonlocal asked
            asked += 1
            return stop_when() or (stop_after is not None and asked >= stop_after)

        train(
            config,
            channels=channels,
            model_dir=self.folder / "model",
            output_dir=self.folder / "output",
            checkpoint_dir=self.folder / "checkpoints",
            report=lambda name, value, step: self.reported.append((name, value, step)),
            should_stop=should_stop,
        )

    @property
    def weights(self):
        return load_file(self.folder / "model" / "model.safetensors")


def test_it_learns_four_pictures_by_heart(tmp_path, four_pictures):
    job = Job(tmp_path)
    config = dataclasses.replace(SMALL, epochs=120, learning_rate=2e-3, evaluate_epochs=1000, augment="none")
    job.run(config, {"train": four_pictures, "validation": four_pictures})
    dataset = PictureDataset("train", four_pictures)
    samples = [dataset[index] for index in range(len(dataset))]
    best = min(
        evaluate_constant(constant, samples)["mean_angular_error"]
        for constant in constant_predictions(dataset).values()
    )
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert metrics["mean_angular_error"] < best / 2
    assert metrics["mean_angular_error"] < 10
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert len(description["validation"]) == 8
    assert description["validation"].items() <= metrics.items()
    assert description["trained"]["step"] == 120
    assert ("val_mean_angular_error", metrics["mean_angular_error"], 120) in job.reported


def test_every_picture_is_counted_once_and_only_the_seconds_of_training(tmp_path, four_pictures):
    job = Job(tmp_path)
    config = dataclasses.replace(SMALL, epochs=5, batch_size=2)
    began = time.monotonic()
    job.run(config, {"train": four_pictures, "validation": four_pictures})
    took = time.monotonic() - began
    told = {
        name: [value for of, value, _ in job.reported if of == name]
        for name in ("trained_images", "trained_seconds", "images_per_second")
    }
    assert sum(told["trained_images"]) == 5 * 4
    assert 0 < sum(told["trained_seconds"]) < took
    for images, seconds, speed in zip(*told.values(), strict=True):
        assert speed == pytest.approx(images / seconds)


def test_every_metric_has_its_definition_for_cloudwatch(tmp_path, four_pictures, pytestconfig):
    from training.metric_lines import metric_regex

    job = Job(tmp_path)
    job.run(dataclasses.replace(SMALL, epochs=1), {"train": four_pictures, "validation": four_pictures})
    path = pytestconfig.rootpath / "container" / "surface_normals" / "metric_definitions.json"
    definitions = {entry["Name"]: entry["Regex"] for entry in json.loads(path.read_text())}
    of_gpus = {"gpu_memory_mib", "loss_scale"}
    assert set(definitions) - of_gpus == {name for name, _, _ in job.reported} - of_gpus
    assert len(definitions) <= 40  # SageMaker takes no more
    assert all(regex == metric_regex(name) for name, regex in definitions.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_and_resumed_job_ends_with_the_same_bits(tmp_path, four_pictures, workers):
    config = dataclasses.replace(SMALL, epochs=3, batch_size=2, workers=workers)
    undisturbed, stopped = Job(tmp_path / "undisturbed"), Job(tmp_path / "stopped")
    undisturbed.run(config, {"train": four_pictures})
    stopped.run(config, {"train": four_pictures}, stop_after=ASKED_BEFORE + 3)
    assert json.loads((tmp_path / "stopped/model/model.json").read_text())["trained"]["step"] == 3
    stopped.run(config, {"train": four_pictures})
    for name, tensor in undisturbed.weights.items():
        assert torch.equal(tensor, stopped.weights[name]), name


@pytest.mark.slow
def test_an_encoder_that_drops_blocks_at_random_is_resumed_to_the_bit(tmp_path, four_pictures):
    config = dataclasses.replace(
        SMALL, size="M", encoder_weights="random", epochs=2, batch_size=2, crop_height=32, crop_width=32
    )
    undisturbed, stopped = Job(tmp_path / "undisturbed"), Job(tmp_path / "stopped")
    undisturbed.run(config, {"train": four_pictures})
    stopped.run(config, {"train": four_pictures}, stop_after=ASKED_BEFORE + 3)
    stopped.run(config, {"train": four_pictures})
    for name, tensor in undisturbed.weights.items():
        assert torch.equal(tensor, stopped.weights[name]), name


def test_a_resumed_job_knows_its_best_measurement_and_its_time(tmp_path, four_pictures):
    job, channels = Job(tmp_path), {"train": four_pictures, "validation": four_pictures}

    def measured():
        time.sleep(0.2)  # so that this attempt takes longer than the next
        return any(name == "val_mean_angular_error" for name, *_ in job.reported)

    job.run(dataclasses.replace(SMALL, epochs=3), channels, stop_when=measured)
    (first,) = (value for name, value, _ in job.reported if name == "val_mean_angular_error")
    seconds = json.loads((tmp_path / "model/model.json").read_text())["trained"]["seconds"]
    assert seconds > 1
    record = tmp_path / "checkpoints/metrics.csv"
    assert f"1,val_mean_angular_error,{first:.8g}" in record.read_text()
    record.write_text(record.read_text().replace(f"error,{first:.8g}", "error,1.5"))  # none will be better
    job.run(dataclasses.replace(SMALL, epochs=3), channels)
    assert ("best_val_mean_angular_error", 1.5, 3) in job.reported
    assert json.loads((tmp_path / "model/model.json").read_text())["trained"]["seconds"] > seconds


def test_what_is_not_well_is_told_before_the_end_without_validation_too(tmp_path, four_pictures, caplog):
    told_at = []

    def stop_when():
        told_at.append("training health: learning_rate_at_its_bound" in caplog.text)
        return False

    config = dataclasses.replace(SMALL, epochs=3, learning_rate=1e-7)
    Job(tmp_path).run(config, {"train": four_pictures}, stop_when=stop_when)
    assert True in told_at


@pytest.mark.parametrize("asked", range(1, ASKED_BEFORE + 1))
def test_a_stop_before_the_first_step_leaves_no_model_and_the_next_attempt_goes_on(
    tmp_path, four_pictures, asked
):
    job, config = Job(tmp_path), dataclasses.replace(SMALL, epochs=3, batch_size=2)
    job.run(config, {"train": four_pictures}, stop_after=asked)
    for name in ("model", "checkpoints"):
        assert list((tmp_path / name).iterdir()) == []
    job.run(config, {"train": four_pictures}, stop_after=ASKED_BEFORE + 3)
    job.run(config, {"train": four_pictures}, stop_after=asked)  # of a resumed job there is a model
    assert json.loads((tmp_path / "model/model.json").read_text())["trained"]["step"] == 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {}, {"x": torch.full((100,), float(step))})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    newest = tmp_path / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    assert load_checkpoint(tmp_path).step == 2
    assert "step-00000003.safetensors is damaged" in caplog.text
    for step in (4, 5):  # it must not have the place of a whole one
        save_checkpoint(tmp_path, step, {}, {"x": torch.full((100,), float(step))})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-0000000{step}.{ending}" for step in (4, 5) for ending in ("safetensors", "sha256")
    ]
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, {}, {"x": torch.ones(1)})  # from the beginning
    assert load_checkpoint(tmp_path).step == 1
    assert load_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_of_another_network_is_refused(tmp_path, four_pictures):
    job = Job(tmp_path)
    job.run(dataclasses.replace(SMALL, epochs=1), {"train": four_pictures})
    other = dataclasses.replace(SMALL, size="S", encoder_weights="random")
    with pytest.raises(ValueError, match=r"size=tiny.*size=S"):
        job.run(other, {"train": four_pictures})


def test_a_checkpoint_of_other_pictures_is_refused(tmp_path, four_pictures):
    job = Job(tmp_path)
    job.run(dataclasses.replace(SMALL, epochs=1), {"train": four_pictures})
    for _ in write_dataset(tmp_path / "other", count=5, width=64, height=64, seed=4, kind="objects"):
        pass
    with pytest.raises(ValueError, match="other pictures"):
        job.run(dataclasses.replace(SMALL, epochs=2), {"train": tmp_path / "other"})


def test_a_stop_while_measuring_leaves_the_model(tmp_path, four_pictures):
    job = Job(tmp_path)
    channels = {"train": four_pictures, "validation": four_pictures}
    job.run(dataclasses.replace(SMALL, epochs=1), channels, stop_when=lambda: job.reported)
    assert json.loads((tmp_path / "model/model.json").read_text())["trained"]["step"] == 1
    assert not (tmp_path / "output/metrics.json").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_ends_the_job_with_its_name(tmp_path, four_pictures, workers):
    data = tmp_path / "data"
    for kind in ("images", "normals"):
        (data / kind).mkdir(parents=True)
        for path in (four_pictures / kind).iterdir():
            (data / kind / path.name).write_bytes(path.read_bytes())
    (data / "dataset.json").write_bytes((four_pictures / "dataset.json").read_bytes())
    bad = data / "images" / "000002.png"
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000002\.png") as caught:
        Job(tmp_path).run(dataclasses.replace(SMALL, epochs=1, workers=workers), {"train": data})
    assert "\n" not in str(caught.value)


def test_no_train_channel_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="channel 'train' is missing"):
        Job(tmp_path).run(SMALL, {"validation": tmp_path})
