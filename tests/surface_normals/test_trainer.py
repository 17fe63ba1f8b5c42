"""The single training step: precision and portions change its cost, not what it does."""

import dataclasses
import logging

import pytest
import timm
import torch
from safetensors.torch import save_file

from surface_normals.artifact import save_artifact
from surface_normals.training import Config
from surface_normals.training.batches import training_batches
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.synthetic.dataset import write_dataset
from surface_normals.training.trainer import Trainer

CONFIG = Config(
    size="tiny", crop_height=64, crop_width=64, batch_size=4, workers=0, augment="none", learning_rate=3e-4
)
STEPS = 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    for _ in write_dataset(folder, count=4, width=64, height=64, seed=3, kind="objects"):
        pass
    return PictureDataset("train", folder)


def losses_and_weights(config, dataset, num_steps=STEPS):
    trainer = Trainer(config, {}, num_steps)
    steps = [trainer.train_step(batch) for batch in training_batches(config, dataset, 0, num_steps)]
    return [step.loss.item() for step in steps], trainer.network.state_dict(), steps[-1]


@pytest.fixture(scope="module")
def plain(pictures):
    return losses_and_weights(CONFIG, pictures)


@pytest.mark.parametrize("portions", [2, 3, 100])
def test_portions_add_up_to_the_whole_step(pictures, plain, portions):
    seen = []

    def note(module, inputs):
        seen.append(len(inputs[0]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: note(module, inputs) if hasattr(module, "encoder") else None
    )
    try:
        config = dataclasses.replace(CONFIG, accumulate=portions)
        losses, weights, last = losses_and_weights(config, pictures)
    finally:
        handle.remove()
    assert max(seen) < 4
    assert sum(seen) == 4 * STEPS
    assert losses == pytest.approx(plain[0], abs=1e-4)
    assert last.angle.item() == pytest.approx(plain[2].angle.item(), abs=1e-4)
    for name, tensor in plain[1].items():
        assert torch.allclose(weights[name], tensor, atol=2e-4), name


@pytest.mark.parametrize(("precision", "limit"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_follows_full_precision(pictures, plain, precision, limit):
    losses, weights, _ = losses_and_weights(dataclasses.replace(CONFIG, precision=precision), pictures)
    assert losses != plain[0]
    assert losses == pytest.approx(plain[0], abs=limit)
    assert all(tensor.dtype == plain[1][name].dtype for name, tensor in weights.items())


def test_gradients_beyond_float16_cost_a_step_and_not_the_job(pictures):
    config = dataclasses.replace(CONFIG, precision="float16")
    trainer = Trainer(config, {}, STEPS)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
    (batch, *_) = training_batches(config, pictures, 0, STEPS)
    step = trainer.train_step(batch)
    assert step.loss.isfinite()
    assert step.gradient_norm == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.network.state_dict().items())
    assert trainer.scaler.get_scale() == 2.0**39
    assert trainer.gradients.take() == {}


def test_the_loss_scale_is_kept_with_the_checkpoint(tmp_path, pictures):
    from surface_normals.training.checkpoints import save_checkpoint

    config = dataclasses.replace(CONFIG, precision="float16")
    trainer = Trainer(config, {}, STEPS)
    (batch, *_) = training_batches(config, pictures, 0, STEPS)
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 512.0})
    trainer.train_step(batch)
    kept = trainer.checkpoint(pictures)
    save_checkpoint(tmp_path, kept.step, kept.facts, kept.tensors)
    resumed = Trainer(config, {}, STEPS)
    resumed.resume(tmp_path, pictures)
    assert resumed.scaler.get_scale() == 512.0


@pytest.mark.parametrize("loss", ["angmf", "angular", "cosine"])
def test_every_loss_lowers_the_angle(pictures, loss):
    config = dataclasses.replace(CONFIG, loss=loss, learning_rate=2e-3)
    trainer = Trainer(config, {}, 12)
    angles = [trainer.train_step(batch).angle.item() for batch in training_batches(config, pictures, 0, 12)]
    assert angles[-1] < angles[0] - 0.1


def test_a_negative_loss_is_explained_once_and_only_where_it_can_be(caplog):
    with caplog.at_level(logging.INFO):
        Trainer(CONFIG, {}, STEPS)
        assert caplog.text.count("falls below 0") == 1
        caplog.clear()
        Trainer(dataclasses.replace(CONFIG, loss="angular"), {}, STEPS)
        assert "below 0" not in caplog.text


def test_only_what_was_loaded_learns_slowly(tmp_path):
    """A transformer's neck is in the encoder, and as new as the decoder."""
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "test_vit.safetensors")
    config = dataclasses.replace(CONFIG, encoder="timm:test_vit")
    trainer = Trainer(config, {"pretrained": tmp_path}, STEPS)
    peaks = {id(p): group["peak"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.network.named_parameters():
        share = config.loaded_rate_share if name.startswith("encoder.body.") else 1
        assert peaks[id(parameter)] == pytest.approx(config.learning_rate * share), name


def test_a_model_that_goes_on_learns_slowly_throughout(tmp_path):
    save_artifact(tmp_path, Trainer(CONFIG, {}, STEPS).model(), {})
    at_random, going_on = Trainer(CONFIG, {}, STEPS), Trainer(CONFIG, {"model": tmp_path}, STEPS)
    assert {group["peak"] for group in at_random.optimizer.param_groups} == {3e-4}
    assert {round(group["peak"], 9) for group in going_on.optimizer.param_groups} == {3e-5}


@pytest.mark.long
def test_the_default_network_learns_four_pictures_by_heart(pictures):
    config = dataclasses.replace(
        CONFIG, size="M", encoder_weights="random", learning_rate=1e-3, warmup_share=0.1
    )
    _, _, last = losses_and_weights(config, pictures, num_steps=200)
    assert torch.rad2deg(last.angle).item() < 6
