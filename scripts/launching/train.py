"""`launch.py train`: one training job on the image that `make push` sent, watched to its end."""

import argparse
from collections.abc import Sequence
from typing import Any

from launching.calls import Aws, Call, LaunchError, default_name, read_image
from launching.capacity import add_capacity, check_capacity, resources, selected, stopping
from launching.hyperparameters import add_hyperparameters, checked_hyperparameters, read_metric_definitions
from launching.kinds import TRAINING
from launching.network import check_security_groups, security_groups
from launching.request import add_network, add_tags, assignments, folder_uri, tags, vpc
from launching.watch import add_wait, follow, say

HELP = "start a training job and wait for its end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_job_arguments(parser)
    parser.add_argument("--name", help="default: PROJECT and the time")
    add_wait(parser)


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """What describes the job itself; `tune` and `pipeline` take the same."""
    add = parser.add_argument
    add("--role", required=True, metavar="ARN", help="the role that the job takes: reads data, writes models")
    add("--data", required=True, metavar="S3_URI", help="the channel `train`: a folder in S3")
    add("--validation", metavar="S3_URI", help="the channel `validation`")
    add("--pretrained", metavar="S3_URI", help="the channel `pretrained`: weights to start from")
    add("--channel", action="append", default=[], metavar="NAME=S3_URI", help="any other; may be repeated")
    add("--input-mode", choices=("File", "FastFile"), default="File", help="copied first, or read from S3")
    add(
        "--distribution",
        choices=("FullyReplicated", "ShardedByS3Key"),
        default="FullyReplicated",
        help="of the channel `train` over several instances",
    )
    add("--output", required=True, metavar="S3_URI", help="where NAME/output/model.tar.gz goes")
    add(
        "--checkpoint",
        metavar="S3_URI",
        help="where checkpoints are kept while the job runs, and where it goes on from; with --spot by default "
        "OUTPUT/NAME/checkpoints",
    )
    add("--project", default="surface-normals", help="begins the default name, and marks the metrics")
    add_hyperparameters(parser)
    add_capacity(parser)
    add("--retry", type=int, metavar="TIMES", help="start anew after a fault of SageMaker's own")
    add("--encrypt-between-containers", action="store_true", help="several instances: encrypt what they say")
    add("--environment", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add(
        "--instance-usd-per-hour",
        type=float,
        metavar="PRICE",
        help="of one instance, for the metric of the costs",
    )
    add("--image", metavar="URI", help="default: what train.digest says")
    add_network(parser)
    add_tags(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """create_training_job, before it with a VPC a look at its security groups. Raises LaunchError."""
    options.name = options.name or default_name(options.project)
    request = {"TrainingJobName": options.name, **job(options, options.name)}
    request["Tags"] = tags(options, options.name)
    return [*security_groups(options), Call("sagemaker", "create_training_job", request)]


def job(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The members of create_training_job without its name and tags. Raises LaunchError."""
    check_capacity(options)
    if options.retry is not None and not 1 <= options.retry <= 30:
        raise LaunchError(f"--retry {options.retry}: from 1 to 30")
    hyperparameters = checked_hyperparameters(options)
    channels = {"train": options.data}
    channels |= {"validation": options.validation} if options.validation else {}
    channels |= {"pretrained": options.pretrained} if options.pretrained else {}
    channels |= assignments(options.channel, "--channel")
    request: dict[str, Any] = {
        "RoleArn": options.role,
        "AlgorithmSpecification": {
            "TrainingImage": read_image("train", options.image),
            "TrainingInputMode": options.input_mode,
            "MetricDefinitions": read_metric_definitions(options.model_package),
        },
        "HyperParameters": hyperparameters,
        "InputDataConfig": [_channel(channel, uri, options) for channel, uri in channels.items()],
        "OutputDataConfig": {"S3OutputPath": options.output},
        "ResourceConfig": resources(options),
        "StoppingCondition": stopping(options),
        "Environment": environment(options),
        **vpc(options),
    }
    checkpoint = options.checkpoint
    if options.spot:
        request["EnableManagedSpotTraining"] = True
        checkpoint = checkpoint or f"{options.output.rstrip('/')}/{name}/checkpoints"
    if checkpoint:
        request["CheckpointConfig"] = {"S3Uri": checkpoint}
    if options.kms_key:
        request["OutputDataConfig"]["KmsKeyId"] = options.kms_key
    if options.retry is not None:
        request["RetryStrategy"] = {"MaximumRetryAttempts": options.retry}
    if options.network_isolation:
        request["EnableNetworkIsolation"] = True
    if options.encrypt_between_containers:
        request["EnableInterContainerTrafficEncryption"] = True
    return request


def environment(options: argparse.Namespace) -> dict[str, str]:
    """What the container cannot know by itself, and the user's own."""
    values = {"METRICS_PROJECT": options.project}
    if options.instance_usd_per_hour is not None:
        values["INSTANCE_USD_PER_HOUR"] = f"{options.instance_usd_per_hour:g}"
    return values | assignments(options.environment, "--environment")


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Start the job; show its way. Raises LaunchError when it does not complete."""
    name = options.name
    *look, create = calls
    for call in look:
        check_security_groups(aws(call), call.arguments["GroupIds"])
    aws(create)
    say(TRAINING.accepted(name, aws.region))
    if options.wait:
        summarise(name, follow(TRAINING, name, options, aws))


def summarise(name: str, answer: dict[str, Any]) -> None:
    """The end of a complete job: its numbers, what it cost in time, where the model is."""
    for metric in answer.get("FinalMetricDataList", []):
        print(f"{metric['MetricName']} {metric['Value']:g}")
    trained, billed = answer.get("TrainingTimeInSeconds"), answer.get("BillableTimeInSeconds")
    if trained and billed is not None:
        spared = f", {100 * (1 - billed / trained):.0f} % saved by spot" if billed < trained else ""
        print(f"training time {trained} s, billed {billed} s{spared}")
    if instances := selected(answer):
        print(f"ran on {instances}")
    pool = answer.get("WarmPoolStatus", {})
    if pool.get("Status"):
        print(f"warm pool: {pool['Status']}")
    print(f"model: {answer['ModelArtifacts']['S3ModelArtifacts']}\nnext: launch.py deploy --job {name}")


def _channel(name: str, uri: str, options: argparse.Namespace) -> dict[str, Any]:
    distribution = options.distribution if name == "train" else "FullyReplicated"
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": folder_uri(uri),
        "S3DataDistributionType": distribution,
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}
