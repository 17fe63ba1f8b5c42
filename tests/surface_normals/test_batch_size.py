"""batch_size=auto: the search, what it measures with, and who is asked; the GPU itself is not here."""

import dataclasses
import logging

import pytest
import torch

from surface_normals.training import Config
from surface_normals.training.batch_size import fits_without_error, largest_that_fits, made_up_batch, settle
from surface_normals.training.batches import training_batches
from surface_normals.training.checkpoints import save_checkpoint
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.distributed import Ranks
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

CONFIG = Config(size="tiny", crop_height=64, crop_width=96, batch_size=2, workers=0)


@pytest.mark.parametrize(
    ("room", "found"), [(0, 0), (1, 1), (2, 2), (3, 2), (31, 16), (32, 32), (255, 128), (10**6, 256)]
)
def test_the_largest_power_of_two_that_fits_is_found(room, found):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= room

    assert largest_that_fits(fits) == found
    assert max(tried) <= max(1, 2 * found)  # nothing is tried that is far too large
    assert len(tried) == len(set(tried))


def test_a_step_that_bursts_the_memory_does_not_fit():
    class Layer(torch.nn.Module):
        def forward(self, x):
            if len(x) > 5:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return x

    def attempt(size):
        Layer()(torch.zeros(size))
        return size != 4  # it did fit, but more than that is taken

    assert largest_that_fits(lambda size: fits_without_error(attempt, size)) == 2
    assert largest_that_fits(lambda size: fits_without_error(lambda s: attempt(s) or s == 4, size)) == 4


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def attempt(size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fits_without_error(attempt, 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=2, width=96, height=64, seed=3, kind="objects"):
        pass
    return PictureDataset("train", folder)


def test_made_up_pictures_are_what_real_ones_are_to_a_step(pictures):
    (real, *_) = training_batches(CONFIG, pictures, 0, 1)
    batch = made_up_batch(CONFIG, 2)
    for name, tensor, like in zip(batch._fields, batch, real, strict=True):
        if isinstance(like, torch.Tensor):
            assert tensor.shape == like.shape, name
            assert tensor.element_size() >= like.element_size(), name
    assert batch.picture.stride() == real.picture.stride()
    step = Trainer(CONFIG, {}, 1).train_step(batch)
    assert step.loss.isfinite()
    assert step.gradient_norm > 0


def test_a_job_that_goes_on_keeps_its_number(tmp_path, pictures, caplog):
    trainer = Trainer(CONFIG, {}, 4)
    (batch, *_) = training_batches(CONFIG, pictures, 0, 1)
    trainer.train_step(batch)
    kept = trainer.checkpoint(pictures)
    save_checkpoint(tmp_path, kept.step, kept.facts, kept.tensors)
    with caplog.at_level(logging.INFO):
        config = settle(dataclasses.replace(CONFIG, batch_size="auto"), {}, tmp_path, Ranks())
    assert config == CONFIG
    assert "as in the checkpoint" in caplog.text
    resumed = Trainer(config, {}, 4)
    resumed.resume(tmp_path, pictures)
    assert resumed.step == 1
    assert "changed" not in caplog.text


def test_a_number_is_left_alone(tmp_path):
    assert settle(CONFIG, {}, tmp_path, Ranks()) is CONFIG


def test_a_part_of_the_network_says_nothing_of_the_whole():
    with pytest.raises(ValueError, match="name a number"):
        Config(batch_size="auto", sharding="full")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_number_is_found_that_trains(tmp_path):
    config = settle(dataclasses.replace(CONFIG, batch_size="auto"), {}, tmp_path, Ranks())
    assert config.pictures_a_step == 256
    assert Trainer(config, {}, 1).train_step(made_up_batch(config, 256)).loss.isfinite()
