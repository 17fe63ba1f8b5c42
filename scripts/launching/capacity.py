"""What a training job runs on and for how long: instances, spare or reserved ones, warm pools, and limits of time."""

import argparse
import re
import sys
from typing import Any

from launching.calls import LaunchError
from launching.request import add_instance_type, at_least_one, check_price, instance_types

MAXIMUM_RUNTIME_SECONDS = 28 * 24 * 3600  # SageMaker's; boto3's description carries no maximum
PENDING_SECONDS = (1800, 28 * 24 * 3600)  # boto3's description
DOCUMENTED_KEEP_ALIVE_SECONDS = 3600  # the guide's; boto3's description says 21600


def add_capacity(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_instance_type(parser)
    add("--instance-count", type=int, default=1)
    add("--volume-size", type=int, default=100, metavar="GB", help="no effect where the instance has disks")
    add("--max-runtime", type=int, default=24 * 3600, metavar="SECONDS", help="at most 28 days (%(default)s)")
    add(
        "--max-pending",
        type=int,
        metavar="SECONDS",
        help="wait for a GPU no longer than that; 1800 to 28 days",
    )
    add("--spot", action="store_true", help="spare capacity: cheaper, may be interrupted and goes on then")
    add("--max-wait", type=int, metavar="SECONDS", help="with --spot: run time and waiting; default: twice")
    add(
        "--training-plan",
        metavar="ARN",
        help="reserved capacity; of several --instance-type that of the first",
    )
    add("--keep-alive", type=int, metavar="SECONDS", help="warm pool: the next job starts at once")


def check_capacity(options: argparse.Namespace) -> None:
    """The rules between options that AWS only tells after the call. Raises LaunchError."""
    if not 1 <= options.max_runtime <= MAXIMUM_RUNTIME_SECONDS:
        raise LaunchError(
            f"--max-runtime {options.max_runtime}: from 1 to {MAXIMUM_RUNTIME_SECONDS} s (28 days)"
        )
    at_least_one(options.instance_count, "--instance-count")
    at_least_one(options.volume_size, "--volume-size")
    _check_pending(options)
    check_price(options)
    for option, given in (
        ("several --instance-type", len(instance_types(options.instance_type)) > 1),
        ("--training-plan", options.training_plan),
    ):
        if given and options.spot:
            raise LaunchError(
                f"{option} and --spot exclude each other: AWS takes them on demand or as planned"
            )
    if options.max_wait is not None:
        if not options.spot:
            raise LaunchError("--max-wait is for --spot")
        if options.max_wait < options.max_runtime:
            raise LaunchError(f"--max-wait {options.max_wait} is below --max-runtime {options.max_runtime}")
    if options.keep_alive:
        if options.spot:
            raise LaunchError("--keep-alive and --spot exclude each other: spot instances go back at once")
        if options.keep_alive > DOCUMENTED_KEEP_ALIVE_SECONDS:
            print("--keep-alive: AWS documents 3600 s at most", file=sys.stderr)


def _check_pending(options: argparse.Namespace) -> None:
    if options.max_pending is None:
        return
    least, most = PENDING_SECONDS
    if not least <= options.max_pending <= most:
        raise LaunchError(f"--max-pending {options.max_pending}: from {least} to {most} s (28 days)")
    if not any(map(is_accelerated, instance_types(options.instance_type))):
        raise LaunchError(
            f"--max-pending has no effect on {options.instance_type}: AWS counts the wait for ml.p, ml.g and ml.trn"
        )


def is_accelerated(instance_type: str) -> bool:
    return bool(re.match(r"ml\.(p|g|trn)\d", instance_type))


def resources(options: argparse.Namespace) -> dict[str, Any]:
    """The member ResourceConfig."""
    first, *others = instance_types(options.instance_type)
    preferences: list[dict[str, Any]] = [{"InstanceType": name} for name in (first, *others)]
    config: dict[str, Any] = {
        **({"InstancePreferences": preferences} if others else preferences[0]),
        "InstanceCount": options.instance_count,
        "VolumeSizeInGB": options.volume_size,
    }
    if options.training_plan and others:  # the others are taken on demand, when the plan has no capacity left
        preferences[0]["TrainingPlanArns"] = [options.training_plan]
    elif options.training_plan:
        config["TrainingPlanArn"] = options.training_plan
    if options.volume_kms_key:
        config["VolumeKmsKeyId"] = options.volume_kms_key
    if options.keep_alive:
        config["KeepAlivePeriodInSeconds"] = options.keep_alive
    return config


def stopping(options: argparse.Namespace) -> dict[str, int]:
    """The member StoppingCondition, in seconds."""
    condition = {"MaxRuntimeInSeconds": options.max_runtime}
    if options.max_pending:
        condition["MaxPendingTimeInSeconds"] = options.max_pending
    if options.spot:
        # Run time and the wait for capacity together; AWS refuses less than the run time.
        condition["MaxWaitTimeInSeconds"] = options.max_wait or 2 * options.max_runtime
    return condition


def selected(answer: dict[str, Any]) -> str | None:
    """The instances that AWS took for a job with several --instance-type; of others None."""
    config = answer.get("ResourceConfig", {})
    if instance_type := config.get("SelectedInstanceType"):
        return f"{config.get('SelectedInstanceCount') or config.get('InstanceCount', 1)} x {instance_type}"
    return None
