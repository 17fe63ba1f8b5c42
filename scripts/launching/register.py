"""`launch.py register`: a trained model into SageMaker's model registry, with its metrics, to be approved or not."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from launching.calls import Aws, Call, read_image
from launching.models import model_of, placeholder
from launching.request import add_tags, assignments, split_uri, tags

HELP = "put a training job's model into the model registry"
APPROVALS = {"pending": "PendingManualApproval", "approved": "Approved", "rejected": "Rejected"}
MAXIMUM_METADATA_ENTRIES = 50
CONTENT_TYPES = ["image/jpeg", "image/png", "image/webp", "application/x-npy", "application/json"]
RESPONSE_TYPES = ["application/x-npy", "image/png", "application/json"]
REALTIME_TYPES = ["ml.g4dn.xlarge", "ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.xlarge", "ml.c6i.2xlarge"]
TRANSFORM_TYPES = ["ml.g4dn.xlarge", "ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.xlarge"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--job", required=True, metavar="NAME", help="the training job")
    add(
        "--group", metavar="NAME", help="the model package group; made when it is not there; default: PROJECT"
    )
    add("--project", default="surface-normals")
    add("--approval", choices=tuple(APPROVALS), default="pending", help="(%(default)s)")
    add("--description", default="", help="for who approves")
    add(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a serving setting; may be repeated",
    )
    add("--image", metavar="URI", help="default: what serve.digest says")
    add_tags(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """A look at the job, the group, the metrics as a file beside the model, and the package."""
    group = options.group = options.group or options.project
    model_data = placeholder(options.job)
    metrics = f"s3://(beside the model of {options.job})/evaluation.json"
    request = package(
        group=group,
        image=read_image("serve", options.image),
        model_data=model_data,
        metrics=metrics,
        approval=options.approval,
        description=options.description or f"training job {options.job}",
        environment=assignments(options.environment, "--environment"),
    )
    request["CustomerMetadataProperties"] = {"training_job": options.job}
    return [
        Call("sagemaker", "describe_training_job", {"TrainingJobName": options.job}),
        Call(
            "sagemaker",
            "create_model_package_group",
            {"ModelPackageGroupName": group, "Tags": tags(options, group)},
        ),
        Call(
            "s3",
            "put_object",
            {"Bucket": "(of the model)", "Key": "(evaluation.json beside it)", "Body": b""},
        ),
        Call("sagemaker", "create_model_package", request),
    ]


def package(
    *,
    group: str,
    image: str,
    model_data: str,
    metrics: str,
    approval: str,
    description: str,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the registry, and whoever deploys from it, need to know of a model."""
    container: dict[str, Any] = {"Image": image, "ModelDataUrl": model_data}
    if environment:
        container["Environment"] = environment
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": description,
        "ModelApprovalStatus": APPROVALS[approval],
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": CONTENT_TYPES,
            "SupportedResponseMIMETypes": RESPONSE_TYPES,
            "SupportedRealtimeInferenceInstanceTypes": REALTIME_TYPES,
            "SupportedTransformInstanceTypes": TRANSFORM_TYPES,
        },
        "ModelMetrics": {
            "ModelQuality": {"Statistics": {"ContentType": "application/json", "S3Uri": metrics}}
        },
    }


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    look, group, put, register = calls
    answer = aws(look)
    model_data = model_of(options.job, answer)
    metrics = {row["MetricName"]: float(row["Value"]) for row in answer.get("FinalMetricDataList", [])}
    bucket, key = split_uri(model_data)
    key = f"{key.rstrip('/').rpartition('/')[0]}/evaluation.json"
    body = json.dumps(
        {"regression_metrics": {name: {"value": value} for name, value in metrics.items()}}, indent=2
    )
    make_group(group, aws)
    aws(Call(put.client, put.method, {"Bucket": bucket, "Key": key, "Body": body.encode()}))
    arguments = register.arguments
    arguments["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] = model_data
    arguments["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"] = f"s3://{bucket}/{key}"
    numbers = dict(list(metrics.items())[: MAXIMUM_METADATA_ENTRIES - 1])
    arguments["CustomerMetadataProperties"] |= {name: f"{value:g}" for name, value in numbers.items()}
    arn = aws(register)["ModelPackageArn"]
    print(
        f"{arn}: {APPROVALS[options.approval]}\nnext: launch.py deploy --package {options.group} --when-approved"
    )


def make_group(call: Call, aws: Aws) -> None:
    try:
        aws(call)
    except ClientError as error:
        if "exist" not in error.response["Error"].get("Message", "").lower():
            raise
