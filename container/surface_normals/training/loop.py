"""The training run, from top to bottom: data, network, resume, steps, measurement, model."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from surface_normals.artifact import save_artifact
from surface_normals.device import pick_device
from surface_normals.network import SurfaceNormalNetwork
from surface_normals.torch_engine import load_engine
from surface_normals.training import batch_size, provenance
from surface_normals.training.augmentation import strength
from surface_normals.training.batches import training_batches
from surface_normals.training.checkpoints import CheckpointWriter
from surface_normals.training.compiling import require_compiler
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.dataset_check import check_before_training
from surface_normals.training.distributed import Ranks
from surface_normals.training.evaluation import constant_predictions, evaluate, evaluate_constants
from surface_normals.training.export import export
from surface_normals.training.outcome import Outcome
from surface_normals.training.progress import NotFinite, Progress
from surface_normals.training.reference import reference_of, training_figures
from surface_normals.training.shares import TrainingPictures, open_validation
from surface_normals.training.trainer import Trainer

__all__ = ["Trainer", "run"]

logger = logging.getLogger(__name__)

PICTURES_FOR_CONSTANTS, MEASURED_FOR_CONSTANTS = 200, 500
"""Training pictures that the mean normals are made of, which the model is compared with, and validation pictures that
these are measured on: more would change little, and the GPU waits."""


def run(
    config: Config,
    *,
    channels: Mapping[str, Path],
    model_dir: Path,
    output_dir: Path,
    checkpoint_dir: Path,
    report: Callable[[str, float, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train on channel `train`, measure on channel `validation` if there is one, leave the artifact in `model_dir`.

    When `should_stop()` turns true the current step is finished, then a checkpoint and the model as
    it is are written. Raises ValueError for data that cannot be used, naming channel and file.
    """
    if "train" not in channels:
        raise ValueError(
            f"channel 'train' is missing; the job has {', '.join(sorted(channels)) or 'no channel'}"
        )
    _require_means(config, pick_device())
    ranks = Ranks()
    training_set = TrainingPictures(channels["train"], ranks)
    validation_set = open_validation(channels.get("validation"), ranks)
    ranks.together(partial(_check, config, training_set, validation_set, should_stop))
    config = batch_size.settle(config, channels, checkpoint_dir, ranks, should_stop)
    config = replace(config, augment=strength(config.augment, config.epochs * len(training_set)))
    logger.info("augment=%s", config.augment)
    if validation_set is None:
        logger.warning("no channel 'validation': the model will not be measured")
    outcome = Outcome(config, output_dir, checkpoint_dir, report, is_leader=ranks.is_leader)
    if validation_set:
        measure = partial(_measure_constants, training_set, validation_set, config.workers)
        outcome.compare_with(ranks.leader_alone(measure, should_stop) or {})

    num_steps = config.epochs * training_set.share.steps_per_epoch(config.pictures_a_step)
    trainer = Trainer(config, channels, num_steps)
    trainer.resume(checkpoint_dir, training_set)
    outcome.resumed(trainer.step)
    logger.info(
        "%d pictures, %d validation pictures, %d steps of %d, %.1f M parameters on %s",
        len(training_set),
        len(validation_set or ()),
        num_steps,
        config.pictures_a_step * ranks.count,
        sum(parameter.numel() for parameter in trainer.network.parameters()) / 1e6,
        trainer.device if ranks.count == 1 else f"{ranks.count} x {trainer.device.type}",
    )
    with CheckpointWriter(checkpoint_dir, config.checkpoint_minutes * 60) as writer:
        try:
            _train(trainer, training_set, validation_set, writer, outcome, should_stop)
        except NotFinite as error:
            if trainer.rate_factor < 1:
                raise
            logger.warning("%s; trying once more from the last checkpoint, at half the rate", error)
            writer.finish()
            trainer = Trainer(config, channels, num_steps, rate_factor=0.5)
            trainer.resume(checkpoint_dir, training_set)
            outcome.resumed(trainer.step)
            _train(trainer, training_set, validation_set, writer, outcome, should_stop)
    if trainer.step == 0:
        logger.warning("stopped before the first step: there is no model")
        return
    model = trainer.model()
    ranks.leader_alone(
        lambda stop: _finish(trainer, model, training_set, validation_set, model_dir, outcome, stop),
        should_stop,
    )


def _train(
    trainer: Trainer,
    training_set: TrainingPictures,
    validation_set: PictureDataset | None,
    writer: CheckpointWriter,
    outcome: Outcome,
    should_stop: Callable[[], bool],
) -> None:
    """The steps that are left, until a stop. Raises NotFinite, before a checkpoint could hold such weights."""
    config, ranks = trainer.config, trainer.ranks
    if ranks.any(should_stop())[0]:
        return
    epoch_steps = training_set.share.steps_per_epoch(config.pictures_a_step)
    progress = Progress(outcome.report, trainer)
    batches = training_batches(config, training_set, trainer.step, trainer.num_steps)
    for batch in progress.wait_for(batches):
        progress.add(trainer.train_step(batch))
        epoch, rest = divmod(trainer.step, epoch_steps)
        stop, report_due, checkpoint_due = ranks.any(
            should_stop(), progress.due, ranks.is_leader and writer.due
        )
        if stop:
            break
        if report_due or checkpoint_due or rest == 0:
            progress.flush()
        if rest == 0 and validation_set and epoch % config.evaluate_epochs == 0 and epoch < config.epochs:
            evaluation = trainer.measure(validation_set, should_stop)
            if evaluation:
                outcome.measured(evaluation, trainer.step)
            progress.restart()
            if ranks.any(should_stop())[0]:
                break
        # An epoch shorter than the writing of a checkpoint gets none.
        if (checkpoint_due or rest == 0) and ranks.any(ranks.is_leader and not writer.busy)[0]:
            _checkpoint(trainer, training_set, writer, outcome)
    progress.flush()
    _checkpoint(trainer, training_set, writer, outcome)


def _checkpoint(
    trainer: Trainer, training_set: TrainingPictures, writer: CheckpointWriter, outcome: Outcome
) -> None:
    """Every rank must come here, as each may have a part of the weights; the leader writes."""
    checkpoint = trainer.checkpoint(training_set)
    if trainer.ranks.is_leader:
        writer.write(checkpoint)
        outcome.checkpointed()


def _finish(
    trainer: Trainer,
    model: SurfaceNormalNetwork | None,
    training_set: TrainingPictures,
    validation_set: PictureDataset | None,
    model_dir: Path,
    outcome: Outcome,
    should_stop: Callable[[], bool],
) -> None:
    """Write the model; when the training is complete, measure it; then write what is known of the run."""
    assert model is not None  # the leader's never is
    config, facts = trainer.config, provenance.facts(trainer.config, trainer.step, trainer.seconds)
    save_artifact(model_dir, model, facts)
    if trainer.step < trainer.num_steps:
        logger.warning(
            "stopped after step %d of %d; the model so far is in %s",
            trainer.step,
            trainer.num_steps,
            model_dir,
        )
    elif validation_set:
        # Once more from the files, through the code that serves them: what is measured is what is deployed.
        evaluation = evaluate(load_engine(model_dir), validation_set, should_stop, config.workers)
        if evaluation:
            outcome.measured(evaluation, trainer.step)
            reference = reference_of(evaluation.figures)
            facts = {**facts, "validation": evaluation.metrics(), "reference": reference}
            save_artifact(model_dir, model, facts)
        else:
            logger.warning("stopped while the finished model was measured; it is in %s", model_dir)
    elif training_set.dataset:
        figures = training_figures(load_engine(model_dir), training_set.dataset, should_stop)
        save_artifact(model_dir, model, {**facts, "reference": reference_of(figures)})
    if trainer.step == trainer.num_steps and not should_stop():  # a stopped job has no minutes left
        export(config.export, model_dir, should_stop)
    environment = provenance.environment(facts, trainer.device, trainer.ranks.count)
    pictures = {
        "training pictures": str(len(training_set)),
        "validation pictures": str(len(validation_set or ())),
    }
    outcome.finish(trainer.step, trainer.num_steps, pictures | environment)


def _require_means(config: Config, device: torch.device) -> None:
    """Raises ValueError, before any work, where the machine lacks what a hyperparameter needs."""
    if config.batch_size == "auto" and device.type != "cuda":
        raise ValueError(
            "batch_size=auto asks how much a GPU's memory holds, and there is no GPU: name a number"
        )
    if config.compile:
        require_compiler(device)


def _check(
    config: Config,
    training_set: TrainingPictures,
    validation_set: PictureDataset | None,
    should_stop: Callable[[], bool],
) -> None:
    """Look at samples of what this rank has, unless another rank that has the same does. Raises ValueError."""
    if training_set.dataset and training_set.share.rank == 0:
        crop = (config.crop_height, config.crop_width)
        check_before_training(training_set.dataset, validation_set, crop, should_stop)


def _measure_constants(
    training_set: TrainingPictures,
    validation_set: PictureDataset,
    workers: int,
    should_stop: Callable[[], bool],
) -> dict[str, dict[str, float]]:
    """The eight numbers of answers that do not look at the picture; nothing when the job was stopped meanwhile."""
    if training_set.dataset is None:
        logger.warning("this host, which measures, has no training picture: no constants are compared with")
        return {}
    constants = constant_predictions(training_set.dataset, PICTURES_FOR_CONSTANTS, should_stop, workers)
    return evaluate_constants(constants, validation_set, should_stop, MEASURED_FOR_CONSTANTS, workers) or {}
