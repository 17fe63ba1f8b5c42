"""`launch.py transform`: a whole S3 prefix through a model on instances that are there only for it."""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from launching.calls import Aws, Call, LaunchError, default_name
from launching.deploy import make_all_or_nothing
from launching.kinds import TRANSFORM
from launching.models import (
    TRANSFORM_AMI,
    add_model,
    add_source,
    create_model,
    cuda_of,
    fill_in,
    given_source,
    is_gpu,
    look_at,
)
from launching.request import add_network, add_tags, at_least_one, folder_uri, tags
from launching.watch import add_wait, follow, say

HELP = "send everything under an S3 prefix through a model, the answers to another prefix"
MAXIMUM_TOTAL_MB = 100  # of concurrent requests x largest payload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_model(parser)
    add = parser.add_argument
    add("--name", help="of the job and its model; default: PROJECT and the time")
    add("--input", required=True, metavar="S3_URI", help="a folder of pictures")
    add("--output", required=True, metavar="S3_URI", help="OBJECT.out for each OBJECT")
    add("--accept", default="image/png", metavar="TYPE", help="of the answers (%(default)s)")
    add("--lines", action="store_true", help="the objects are JSON lines, each with a picture")
    add(
        "--error-records",
        action="store_true",
        help="a wrong picture gives a record instead of ending the job",
    )
    add("--instance-type", default="ml.g5.xlarge")
    add("--instance-count", type=int, default=1)
    add(
        "--instance-usd-per-hour",
        type=float,
        metavar="PRICE",
        help="of one instance, for the metric of the costs",
    )
    add("--concurrency", type=int, metavar="N", help="requests at once; default: what suits the container")
    add("--payload-mb", type=int, metavar="N", help="largest picture; default: what suits the container")
    add_network(parser)
    add_tags(parser)
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """A model, then the job; when that has ended the model goes."""
    name = options.name = options.name or default_name(options.project)
    _check(options)
    source = given_source(options)
    resources: dict[str, Any] = {
        "InstanceType": options.instance_type,
        "InstanceCount": options.instance_count,
    }
    if is_gpu(options.instance_type):
        resources["TransformAmiVersion"] = TRANSFORM_AMI  # by default the driver is too old for CUDA 12
    if options.volume_kms_key:
        resources["VolumeKmsKeyId"] = options.volume_kms_key
    output = {"S3OutputPath": options.output, "Accept": options.accept}
    if options.lines:
        output["AssembleWith"] = "Line"
    if options.kms_key:
        output["KmsKeyId"] = options.kms_key
    request: dict[str, Any] = {
        "TransformJobName": name,
        "ModelName": name,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": folder_uri(options.input)}},
            # The server looks at the bytes: a prefix may mix JPEG and PNG.
            "ContentType": "application/jsonlines" if options.lines else "application/octet-stream",
            "SplitType": "Line" if options.lines else "None",
        },
        "TransformOutput": output,
        "TransformResources": resources,
        "ModelClientConfig": {"InvocationsTimeoutInSeconds": 3600, "InvocationsMaxRetries": 3},
        "Tags": tags(options, name),
    }
    if options.concurrency:
        request["MaxConcurrentTransforms"] = options.concurrency
    if options.payload_mb:
        request["MaxPayloadInMB"] = options.payload_mb
    # SageMaker does not tell a container its job: these are the dimensions of its metrics.
    environment = {"ENDPOINT_NAME": name, "VARIANT_NAME": "transform"}
    if options.instance_usd_per_hour is not None:
        environment["INSTANCE_USD_PER_HOUR"] = f"{options.instance_usd_per_hour:g}"
    if options.error_records:
        environment["ERROR_RECORDS"] = "on"
    return [
        *look_at(source),
        create_model(options, name, source, environment, name),
        Call("sagemaker", "create_transform_job", request),
        *([Call("sagemaker", "delete_model", {"ModelName": name})] if options.wait else []),
    ]


def _check(options: argparse.Namespace) -> None:
    at_least_one(options.instance_count, "--instance-count")
    cuda = options.cuda or cuda_of(options.image or options.package, options.instance_type)
    if is_gpu(options.instance_type) and cuda != "12":
        raise LaunchError("batch transform has no driver for CUDA 13: build the serving image for CUDA 12")
    for option in ("concurrency", "payload_mb"):
        if getattr(options, option) is not None:
            at_least_one(getattr(options, option), f"--{option.replace('_', '-')}")
    if (options.concurrency or 1) * (options.payload_mb or 6) > MAXIMUM_TOTAL_MB:
        raise LaunchError(
            f"--concurrency {options.concurrency or 1} times --payload-mb {options.payload_mb or 6}: "
            f"at most {MAXIMUM_TOTAL_MB} MB together"
        )


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """The model is only for this job: it goes when the job has ended, as it should or not."""
    name = options.name
    stays = f"its model stays until `launch.py delete {name}`, when the job has ended"
    calls = fill_in(list(calls), aws)
    remove = [call for call in calls if call.method == "delete_model"]
    make_all_or_nothing([call for call in calls if call not in remove], aws)
    say(TRANSFORM.accepted(name, aws.region))
    if not options.wait:
        say(stays)
        return
    try:
        follow(TRANSFORM, name, options, aws)
    except LaunchError as error:
        if not _has_ended(name, aws):
            raise LaunchError(f"{error}\n{stays}") from None
        aws(remove[0])
        raise
    aws(remove[0])
    print(f"answers: {options.output}\nnext: launch.py download {options.output} FOLDER")


def _has_ended(name: str, aws: Aws) -> bool:
    """Also no, where AWS cannot be asked."""
    with contextlib.suppress(ClientError, BotoCoreError):
        return aws(TRANSFORM.described(name))[TRANSFORM.status_key] not in TRANSFORM.underway
    return False
