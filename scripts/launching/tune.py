"""`launch.py tune`: SageMaker's automatic model tuning, the search for hyperparameters by many training jobs."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from launching import deploy, train
from launching.calls import Aws, Call, LaunchError
from launching.hyperparameters import check_hyperparameters
from launching.kinds import TUNING
from launching.limits import check_limits
from launching.network import check_security_groups, security_groups
from launching.request import assignment, tags
from launching.watch import add_wait, follow, say

HELP = "search for the best hyperparameters, with many training jobs"
OBJECTIVE = "val_mean_angular_error"
"""Reported after each epoch: early stopping and Hyperband judge a trial by it while it runs."""
MAXIMUM_NAME_CHARACTERS = 32  # the trials' names begin with it
MAXIMUM_VARIABLES = 48
DEFAULT_SPACE = (
    "encoder=resnet18|mobilenet_v3_large|convnext_tiny",
    "size=S|M",
    "learning_rate=log:3e-5:1e-3",
    "loss=angmf|angular|cosine",
)
HYPERBAND_LEAST_EPOCHS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_job_arguments(parser)
    add = parser.add_argument
    add("--name", help=f"at most {MAXIMUM_NAME_CHARACTERS} characters; default: tune and the time")
    add("--strategy", choices=("Bayesian", "Hyperband", "Random", "Grid"), default="Bayesian")
    add("--early-stopping", action=argparse.BooleanOptionalAction, default=True, help="end hopeless trials")
    add("--trials", type=int, default=12, help="training jobs in all (%(default)s)")
    add("--parallel", type=int, default=2, help="of them at once (%(default)s)")
    add(
        "--range",
        action="append",
        default=[],
        metavar="NAME=SPACE",
        help="MIN:MAX, log:MIN:MAX, or A|B|C; may be repeated; default: " + "  ".join(DEFAULT_SPACE),
    )
    add("--objective", default=OBJECTIVE, help="a metric of the training job (%(default)s)")
    add("--maximize", action="store_true", help="the objective, instead of making it small")
    add("--best", metavar="ENDPOINT", help="deploy the best trial's model under this name")
    add("--best-image", metavar="URI", help="of that endpoint; default: what serve.digest says")
    add("--best-instance-type", default="ml.g5.xlarge", metavar="TYPE", help="of that endpoint (%(default)s)")
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """The search, whose trials' definition is a training job's; with --best the deployment that follows it."""
    name = options.name = options.name or f"tune-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if len(name) > MAXIMUM_NAME_CHARACTERS:
        raise LaunchError(f"--name {name!r} has {len(name)} characters: at most {MAXIMUM_NAME_CHARACTERS}")
    if not 1 <= options.parallel <= options.trials:
        raise LaunchError(f"--parallel {options.parallel}: from 1 to --trials {options.trials}")
    if options.best and not options.wait:
        raise LaunchError("--best: the search must have ended, so not with --no-wait")
    if "," in options.instance_type:
        raise LaunchError("--instance-type: all trials of a search run on one type")
    if options.checkpoint:
        raise LaunchError("--checkpoint: the trials would go on from each other's checkpoints")
    definition = train.job(options, name)
    definition.pop("CheckpointConfig", None)  # with --spot an interrupted trial begins anew
    ranges = read_ranges(options.range or DEFAULT_SPACE)
    check_ranges(ranges, definition["HyperParameters"], options)
    definition["StaticHyperParameters"] = definition.pop("HyperParameters")
    if len(definition["Environment"]) > MAXIMUM_VARIABLES:
        raise LaunchError(f"--environment: a tuning job takes {MAXIMUM_VARIABLES} variables at most")
    if options.keep_alive:
        raise LaunchError("--keep-alive: a tuning job keeps its instances by itself")
    configuration: dict[str, Any] = {
        "Strategy": options.strategy,
        "HyperParameterTuningJobObjective": {
            "Type": "Maximize" if options.maximize else "Minimize",
            "MetricName": options.objective,
        },
        "ResourceLimits": {
            "MaxNumberOfTrainingJobs": options.trials,
            "MaxParallelTrainingJobs": options.parallel,
        },
        "ParameterRanges": ranges,
        # Hyperband stops early itself, and takes no other rule beside.
        "TrainingJobEarlyStoppingType": "Auto"
        if options.early_stopping and options.strategy != "Hyperband"
        else "Off",
    }
    if options.strategy == "Hyperband":  # its resource is the number of epochs
        most = int(definition["StaticHyperParameters"].get("epochs", 20))
        bounds = {"MinResource": min(HYPERBAND_LEAST_EPOCHS, most), "MaxResource": most}
        configuration["StrategyConfig"] = {"HyperbandStrategyConfig": bounds}
    if options.strategy == "Grid":
        if any(ranges[key] for key in ("IntegerParameterRanges", "ContinuousParameterRanges")):
            raise LaunchError("--strategy Grid takes only choices, as in --range loss=angmf|cosine")
        del configuration["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    request = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": configuration,
        "TrainingJobDefinition": definition,
        "Tags": tags(options, name),
    }
    search = Call("sagemaker", "create_hyper_parameter_tuning_job", request)
    if not options.best:
        return [*security_groups(options), search]
    # All that could be wrong with it must be told before the search is paid.
    return [
        *security_groups(options),
        search,
        *deploy.plan(_deployment(options, f"best-trial-of-{name}"), aws),
    ]


def _deployment(options: argparse.Namespace, job: str) -> argparse.Namespace:
    """The options of `deploy` for this training job's model: of the search those that are of both."""
    words = [
        *("--job", job, "--role", options.role, "--name", options.best, "--project", options.project),
        *("--instance-type", options.best_instance_type, "--poll-seconds", str(options.poll_seconds)),
        *(("--image", options.best_image) if options.best_image else ()),
        *("--show-log" if options.show_log else "--no-show-log",),
        *(("--network-isolation",) if options.network_isolation else ()),
    ]
    for option in ("kms_key", "volume_kms_key"):
        if value := getattr(options, option):
            words += [f"--{option.replace('_', '-')}", value]
    for option in ("subnet", "security_group", "tag"):
        for value in getattr(options, option):
            words += [f"--{option.replace('_', '-')}", value]
    parser = argparse.ArgumentParser()
    deploy.add_arguments(parser)
    chosen = parser.parse_args(words)
    chosen.words = ["deploy", *words]
    return chosen


def read_ranges(texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """SageMaker's `ParameterRanges`. Raises LaunchError."""
    ranges: dict[str, list[dict[str, Any]]] = {
        "IntegerParameterRanges": [],
        "ContinuousParameterRanges": [],
        "CategoricalParameterRanges": [],
    }
    for text in texts:
        name, space = assignment(text, "--range")
        scale = "Linear"
        if space.startswith("log:"):
            scale, space = "Logarithmic", space.removeprefix("log:")
        if ":" not in space:
            ranges["CategoricalParameterRanges"].append({"Name": name, "Values": space.split("|")})
            continue
        least, _, most = space.partition(":")
        try:
            whole = all(
                float(bound).is_integer() and "." not in bound and "e" not in bound for bound in (least, most)
            )
            is_rising = float(least) < float(most)
        except ValueError:
            raise LaunchError(f"--range {text!r} is not NAME=MIN:MAX") from None
        if not is_rising or (scale == "Logarithmic" and float(least) <= 0):
            raise LaunchError(f"--range {text!r}: MIN must be below MAX, and above 0 where it is log:")
        kind = "IntegerParameterRanges" if whole else "ContinuousParameterRanges"
        ranges[kind].append({"Name": name, "MinValue": least, "MaxValue": most, "ScalingType": scale})
    return ranges


def check_ranges(
    ranges: dict[str, list[dict[str, Any]]], static: dict[str, str], options: argparse.Namespace
) -> None:
    """Every end of every range must be a value that the job would accept. Raises LaunchError."""
    for rows in ranges.values():
        for row in rows:
            if row["Name"] == "epochs" and options.strategy == "Hyperband":
                raise LaunchError("--range epochs: Hyperband itself decides how long a trial goes on")
            if row["Name"] == "encoder" and not _has_weights(options, static):
                raise LaunchError(
                    "trials of several encoders need their weights: --pretrained S3_URI with the file of each, "
                    "or --hyperparameter encoder_weights=random"
                )
            if row["Name"] in static:
                raise LaunchError(f"{row['Name']!r} is both a hyperparameter of its own and searched for")
            for value in row.get("Values") or (row["MinValue"], row["MaxValue"]):
                check_hyperparameters({**static, row["Name"]: value}, options.model_package)


def _has_weights(options: argparse.Namespace, static: dict[str, str]) -> bool:
    given = options.pretrained or any(text.startswith("pretrained=") for text in options.channel)
    return bool(given) or static.get("encoder_weights") == "random"


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    name = options.name
    for call in calls:
        if call.method == "describe_security_groups":
            check_security_groups(aws(call), call.arguments["GroupIds"])
        elif call.method == "create_hyper_parameter_tuning_job":
            aws(call)
            break
    told = TUNING.accepted(name, aws.region)
    say(f"{told}; {options.trials} trials, {options.parallel} at once")
    if not options.wait:
        return
    follow(TUNING, name, options, aws)
    best = print_ranking(name, options, aws)
    if not options.best:
        print(f"next: launch.py deploy --job {best}")
        return
    chosen = _deployment(options, best)
    calls = deploy.plan(chosen, aws)
    check_limits(calls, aws.known_region)
    deploy.run(chosen, calls, aws)


def print_ranking(name: str, options: argparse.Namespace, aws: Aws) -> str:
    """The trials from best to worst, and the best one's name. Raises LaunchError where none has a model."""
    look = Call(
        "sagemaker",
        "list_training_jobs_for_hyper_parameter_tuning_job",
        {"HyperParameterTuningJobName": name},
    )
    trials = [
        trial
        for trial in aws.pages(look, "TrainingJobSummaries")
        if trial.get("FinalHyperParameterTuningJobObjectiveMetric")
    ]
    trials.sort(key=_objective, reverse=options.maximize)
    for place, trial in enumerate(trials, 1):
        values = " ".join(f"{key}={value}" for key, value in sorted(trial["TunedHyperParameters"].items()))
        print(f"{place:3} {_objective(trial):10.4f}  {trial['TrainingJobName']}  {values}")
    best = next((trial for trial in trials if trial["TrainingJobStatus"] in ("Completed", "Stopped")), None)
    if best is None:
        raise LaunchError(f"no trial of {name} has reported {options.objective} and left a model")
    return str(best["TrainingJobName"])


def _objective(trial: dict[str, Any]) -> float:
    return float(trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"])
