"""The training run, from top to bottom: data, network, resume, steps, measurement, model."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from surface_normals import predictor
from surface_normals.artifact import save_artifact
from surface_normals.training import provenance
from surface_normals.training.batches import steps_per_epoch, training_batches
from surface_normals.training.checkpoints import CheckpointWriter
from surface_normals.training.config import Config
from surface_normals.training.dataset import PictureDataset
from surface_normals.training.dataset_check import check_before_training
from surface_normals.training.distributed import Ranks
from surface_normals.training.evaluation import constant_predictions, evaluate, evaluate_constants
from surface_normals.training.export import export
from surface_normals.training.outcome import Outcome
from surface_normals.training.progress import NotFinite, Progress
from surface_normals.training.trainer import Trainer

__all__ = ["Trainer", "run"]

logger = logging.getLogger(__name__)

PICTURES_FOR_CONSTANTS = 200
"""Training pictures that the mean normals are made of, which the model is compared with."""


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
    ranks = Ranks()
    training_set = PictureDataset("train", channels["train"])
    _require_the_same(training_set, ranks)
    validation_set = (
        PictureDataset("validation", channels["validation"]) if "validation" in channels else None
    )
    crop = (config.crop_height, config.crop_width)
    ranks.leader_alone(lambda _: check_before_training(training_set, validation_set, crop), should_stop)
    if validation_set is None:
        logger.warning("no channel 'validation': the model will not be measured")
    outcome = Outcome(config, output_dir, checkpoint_dir, report, is_leader=ranks.is_leader)
    if validation_set:
        measure = partial(_measure_constants, training_set, validation_set)
        outcome.compare_with(ranks.leader_alone(measure, should_stop) or {})

    num_steps = config.epochs * steps_per_epoch(config, len(training_set), ranks.count)
    trainer = Trainer(config, channels, num_steps)
    trainer.resume(checkpoint_dir, training_set)
    outcome.resumed(trainer.step)
    logger.info(
        "%d pictures, %d validation pictures, %d steps of %d, %.1f M parameters on %s",
        len(training_set),
        len(validation_set or ()),
        num_steps,
        config.batch_size * ranks.count,
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
    ranks.leader_alone(
        lambda stop: _finish(trainer, training_set, validation_set, model_dir, outcome, stop), should_stop
    )


def _train(
    trainer: Trainer,
    training_set: PictureDataset,
    validation_set: PictureDataset | None,
    writer: CheckpointWriter,
    outcome: Outcome,
    should_stop: Callable[[], bool],
) -> None:
    """The steps that are left, until a stop. Raises NotFinite, before a checkpoint could hold such weights."""
    config, ranks = trainer.config, trainer.ranks
    epoch_steps = steps_per_epoch(config, len(training_set), ranks.count)
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
            evaluation = ranks.leader_alone(partial(trainer.measure, validation_set), should_stop)
            if evaluation:
                outcome.measured(evaluation, trainer.step)
            progress.restart()
            if ranks.any(should_stop())[0]:
                break
        # An epoch shorter than the writing of a checkpoint gets none.
        if ranks.is_leader and (checkpoint_due or rest == 0) and not writer.busy:
            writer.write(trainer.checkpoint(training_set))
            outcome.checkpointed()
    progress.flush()
    if ranks.is_leader:
        writer.write(trainer.checkpoint(training_set))
        outcome.checkpointed()


def _finish(
    trainer: Trainer,
    training_set: PictureDataset,
    validation_set: PictureDataset | None,
    model_dir: Path,
    outcome: Outcome,
    should_stop: Callable[[], bool],
) -> None:
    """Write the model; when the training is complete, measure it; then write what is known of the run."""
    config, facts = trainer.config, provenance.facts(trainer.config, trainer.step, trainer.seconds)
    save_artifact(model_dir, trainer.model(), facts)
    if trainer.step < trainer.num_steps:
        logger.warning(
            "stopped after step %d of %d; the model so far is in %s",
            trainer.step,
            trainer.num_steps,
            model_dir,
        )
    elif validation_set:
        # Once more from the files, through the code that serves them: what is measured is what is deployed.
        evaluation = evaluate(predictor.load(model_dir), validation_set, should_stop)
        if evaluation:
            outcome.measured(evaluation, trainer.step)
            facts = {**facts, "validation": evaluation.metrics()}
            save_artifact(model_dir, trainer.model(), facts)
        else:
            logger.warning("stopped while the finished model was measured; it is in %s", model_dir)
    if trainer.step == trainer.num_steps:  # a stopped job has no minutes left
        export(config.export, model_dir)
    environment = provenance.environment(facts, trainer.device, trainer.ranks.count)
    pictures = {
        "training pictures": str(len(training_set)),
        "validation pictures": str(len(validation_set or ())),
    }
    outcome.finish(trainer.step, trainer.num_steps, pictures | environment)


def _require_the_same(dataset: PictureDataset, ranks: Ranks) -> None:
    """Raises ValueError where hosts were given different pictures: the ranks share out what all of them have."""
    counts, fingerprints = zip(*ranks.gather((len(dataset), dataset.fingerprint)), strict=True)
    if len(set(fingerprints)) > 1:
        raise ValueError(
            f"channel {dataset.channel!r}: the processes find different pictures (they have {counts}); "
            "set the channel's S3DataDistributionType to FullyReplicated"
        )


def _measure_constants(
    training_set: PictureDataset, validation_set: PictureDataset, should_stop: Callable[[], bool]
) -> dict[str, dict[str, float]]:
    """The eight numbers of answers that do not look at the picture; nothing when the job was stopped meanwhile."""
    constants = constant_predictions(training_set, at_most=PICTURES_FOR_CONSTANTS)
    return evaluate_constants(constants, validation_set, should_stop) or {}
