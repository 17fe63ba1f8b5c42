"""Is the training well? Named findings from the numbers it reports, each with its evidence and what to try.

Every rule is a function of those numbers, the hyperparameters and the last measurement alone. The rules
look at the whole run so far, so they are asked at each measurement and at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from statistics import fmean, median

from surface_normals.training.config import Config
from surface_normals.training.record import Series

OBJECTIVE = "val_mean_angular_error"
TRAIN_ERROR = "train_mean_angular_error"
GRADIENT_NORM = "gradient_norm"
PARTS = ("encoder", "decoder", "head")

MIN_REPORTS = 8
"""Fewer say nothing about a trend."""
VANISHING_SHARE = 1e-4
EXPLODING_TIMES = 20.0
DEAD_SHARE = 0.5
STARVED_PERCENT = 20.0
OVERFIT_TIMES = 1.05
STILL_FALLING_SHARE = 0.03
WORTH_TRAINING = 0.95


@dataclass(frozen=True)
class Finding:
    """One thing that is not well."""

    name: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}; {self.advice}"


def examine(
    series: Series,
    config: Config,
    dead_activations: Mapping[str, float],
    best_constant: float | None = None,
    *,
    complete: bool = False,
) -> list[Finding]:
    """What is not well with a run so far.

    `dead_activations`: share of dead channels by layer. `best_constant`: mean error in degrees of the best
    answer that does not look at the picture. `complete`: the schedule has come to its end.
    """
    findings = [
        *loss_not_falling(series),
        *overfitting(series),
        *vanishing_gradients(series),
        *exploding_gradients(series, config.clip_norm),
        *dead_layers(dead_activations),
        *starved(series),
        *at_a_bound(config),
    ]
    if complete:
        findings += [*ended_too_early(series), *no_better_than_a_constant(series, best_constant)]
    return findings


def loss_not_falling(series: Series) -> Iterator[Finding]:
    """The training angle of the last quarter of the reports is no better than that of the first."""
    points = series.get(TRAIN_ERROR, [])
    quarter = len(points) // 4
    if len(points) < MIN_REPORTS:
        return
    first, last = (fmean(value for _, value in part) for part in (points[:quarter], points[-quarter:]))
    if last > 0.98 * first:
        yield Finding(
            "loss_not_falling",
            f"the mean training angle was {first:.1f} degrees in the first quarter of the reports and is "
            f"{last:.1f} in the last (step {points[-quarter][0]} on)",
            "look at the panels for wrong axes; try another learning_rate, or an encoder with loaded weights",
        )


def overfitting(series: Series) -> Iterator[Finding]:
    """Validation has been worse than its best for two measurements, while training went on to improve."""
    points, train = series.get(OBJECTIVE, []), series.get(TRAIN_ERROR, [])
    if len(points) < 3:
        return
    best_step, best = min(points, key=lambda point: point[1])
    after = [value for step, value in points if step > best_step]
    train_then = [value for step, value in train if step <= best_step]
    if len(after) < 2 or min(after[-2:]) < OVERFIT_TIMES * best or not train_then or not train:
        return
    if train[-1][1] < train_then[-1]:
        yield Finding(
            "overfitting",
            f"validation was best at step {best_step} ({best:.1f} degrees) and is {after[-1]:.1f} now, while the "
            f"training angle fell from {train_then[-1]:.1f} to {train[-1][1]:.1f}",
            "use more or more varied pictures, stronger augmentation, a higher weight_decay, fewer epochs",
        )


def vanishing_gradients(series: Series) -> Iterator[Finding]:
    """A part's gradients are next to nothing beside the largest part's, over the second half of the run."""
    norms = {}
    for part in PARTS:
        values = [value for _, value in series.get(f"{GRADIENT_NORM}_{part}", [])]
        if len(values) >= MIN_REPORTS:
            norms[part] = median(values[len(values) // 2 :])
    largest = max(norms.values(), default=0.0)
    for part, norm in norms.items():
        if norm <= VANISHING_SHARE * largest:
            yield Finding(
                "vanishing_gradients",
                f"the {part}'s gradients have a norm of {norm:.2g} in the second half of the run, "
                f"where the largest part has {largest:.2g}",
                f"the {part} learns nothing: look for dead activations, lower learning_rate, lengthen warmup_share",
            )


def exploding_gradients(series: Series, clip_norm: float) -> Iterator[Finding]:
    """A report's gradient norm stands far above what is usual in the run, and above what is clipped."""
    points = series.get(GRADIENT_NORM, [])
    if len(points) < MIN_REPORTS:
        return
    usual = median(value for _, value in points)
    step, largest = max(points, key=lambda point: point[1])
    if largest > EXPLODING_TIMES * usual and largest > clip_norm:
        yield Finding(
            "exploding_gradients",
            f"the gradient norm was {largest:.3g} around step {step}, {largest / usual:.0f} times its median",
            "look for damaged pictures or truth; lower learning_rate or clip_norm, lengthen warmup_share",
        )


def dead_layers(shares: Mapping[str, float]) -> Iterator[Finding]:
    """More than half of a layer's channels are zero wherever one looks."""
    dead = {name: share for name, share in shares.items() if share > DEAD_SHARE}
    if dead:
        worst = max(dead, key=lambda name: dead[name])
        yield Finding(
            "dead_activations",
            f"{len(dead)} layers have more than half of their channels at zero, {worst} {100 * dead[worst]:.0f} %",
            "lower learning_rate or lengthen warmup_share and train anew: such channels seldom come back",
        )


def starved(series: Series) -> Iterator[Finding]:
    """The steps wait for pictures."""
    values = [value for _, value in series.get("data_wait_percent", [])]
    usual = median(values) if len(values) >= MIN_REPORTS else 0.0
    if usual > STARVED_PERCENT:
        yield Finding(
            "data_starved",
            f"in half of the reports the steps waited for pictures for more than {usual:.0f} % of the time",
            "raise workers (up to the host's cores), store smaller pictures, or take a host with more cores",
        )


def at_a_bound(config: Config) -> Iterator[Finding]:
    """The learning rate is the largest or smallest that is allowed, as a tuning job may have chosen it."""
    (row,) = (row for row in fields(Config) if row.name == "learning_rate")
    for bound in ("minimum", "maximum"):
        if config.learning_rate == row.metadata[bound]:
            yield Finding(
                "learning_rate_at_its_bound",
                f"learning_rate={config.learning_rate:g} is the {bound} that is allowed",
                "a good rate is seldom there; the default is " + f"{row.default:g}",
            )


def ended_too_early(series: Series) -> Iterator[Finding]:
    """The rate has come down to its floor and validation was still getting better."""
    points = series.get(OBJECTIVE, [])
    if len(points) < 3:
        return
    (_, before), (step, last) = points[-2:]
    if last < (1 - STILL_FALLING_SHARE) * before:
        yield Finding(
            "ended_too_early",
            f"validation still fell from {before:.1f} to {last:.1f} degrees at the last measurement (step {step})",
            "more epochs",
        )


def no_better_than_a_constant(series: Series, best_constant: float | None) -> Iterator[Finding]:
    """The finished model's error is about that of an answer that does not look at the picture."""
    points = series.get(OBJECTIVE, [])
    if points and best_constant is not None and points[-1][1] > WORTH_TRAINING * best_constant:
        yield Finding(
            "no_better_than_a_constant",
            f"the model is {points[-1][1]:.1f} degrees off, the best answer without looking {best_constant:.1f}",
            "look at the panels for wrong axes; more epochs, another learning_rate, an encoder with loaded weights",
        )
