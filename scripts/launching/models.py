"""First step of `deploy`, `update`, `transform` and `register`: a trained model as SageMaker's Model."""

import argparse
import re
from typing import Any

from launching import registry
from launching.calls import Aws, Call, LaunchError, read_digest, read_image
from launching.request import assignments, tags, vpc

INFERENCE_AMI = {
    "12": "al2-ami-sagemaker-inference-gpu-3-1",
    "13": "al2023-ami-sagemaker-inference-gpu-4-1",
}
TRANSFORM_AMI = "al2-ami-sagemaker-batch-gpu-535"
CUDA_13_AMI = INFERENCE_AMI["13"]


def add_source(parser: argparse.ArgumentParser, *, required: bool = True) -> Any:
    """The options, of which one is given; returns their group."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--job", metavar="NAME", help="the model of this training job")
    source.add_argument("--model-data", metavar="S3_URI", help="this model.tar.gz")
    source.add_argument("--package", metavar="GROUP", help="the newest approved model of this registry group")
    return source


def add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--role", required=True, metavar="ARN", help="the role that it takes: reads model and image")
    add("--project", default="surface-normals", help="begins the default name, and marks the metrics")
    add(
        "--environment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a serving setting; may be repeated",
    )
    add("--image", metavar="URI", help="default: what serve.digest says")
    add(
        "--cuda",
        choices=tuple(INFERENCE_AMI),
        help="what the image was built with; default: what serve.digest says, 12 for --image",
    )


def is_gpu(instance_type: str) -> bool:
    return bool(re.match(r"ml\.[gp]\d", instance_type))


def host_ami(instance_type: str, cuda: str = "12") -> str | None:
    """The host image with a driver for the container's CUDA on this instance; None: no GPU.

    It must be named: left to itself SageMaker starts g4dn, g5 and p4d hosts with driver 470, on which
    CUDA 12 does not run at all, mostly without a word in the log. 3-1 has driver 550, on which all of
    CUDA 12 runs. 4-1 (driver 580) is made for CUDA 13, and CUDA 12.9 containers have been seen to hang
    on it, but Blackwell GPUs (g7, g7e, p6) need at least driver 570.
    """
    if not is_gpu(instance_type):
        return None
    return CUDA_13_AMI if re.match(r"ml\.(g7|p6)", instance_type) else INFERENCE_AMI[cuda]


def cuda_of(image: str | None, instance_type: str) -> str:
    """CUDA's major version in the image that was pushed last; of another `image` nothing is known, and 12 is usual.

    Raises LaunchError for an image without CUDA on an instance with a GPU, which it would not use.
    """
    flavor = "cu12" if image else read_digest("serve")[1]
    if flavor != "cpu":
        return flavor.removeprefix("cu")[:2]
    if is_gpu(instance_type):
        raise LaunchError(
            f"serve.digest is of the cpu flavour, which would not use the GPU of {instance_type}: give "
            "--instance-type ml.c7i.xlarge, for example, or `make build push` for a GPU"
        )
    return "12"


PACKAGE = "package "
"""Before a registry group's name, where a source of a model may be of several kinds."""
MANY = "models below "
"""Before a folder of S3, likewise: each model.tar.gz there is one of a multi-model endpoint's."""


def given_source(options: argparse.Namespace) -> str | None:
    """The one that the options name: a training job, an s3://.../model.tar.gz, or a registry group."""
    return options.job or options.model_data or (PACKAGE + options.package if options.package else None)


def look_at(source: str) -> list[Call]:
    """The look that tells where the model is; for an s3://.../model.tar.gz none.

    Raises LaunchError for what is no source.
    """
    if source.startswith(PACKAGE):
        return [registry.approved(source.removeprefix(PACKAGE))]
    if re.fullmatch(r"s3://[^/]+/.+\.tar\.gz", source) or source.startswith(MANY):
        return []
    if "/" in source:
        raise LaunchError(f"--model-data {source!r} is not an s3://.../model.tar.gz")
    return [Call("sagemaker", "describe_training_job", {"TrainingJobName": source})]


def create_model(
    options: argparse.Namespace, name: str, source: str, environment: dict[str, str], owner: str
) -> Call:
    """A Model of `name` that serves `source`; `owner` is the name that was launched."""
    container: dict[str, Any] = {
        "Environment": {"METRICS_PROJECT": options.project}
        | environment
        | assignments(options.environment, "--environment")
    }
    if source.startswith(PACKAGE):  # it brings its own image
        container["ModelPackageName"] = placeholder(source)
    else:
        container["Image"] = read_image("serve", options.image)
        container["ModelDataUrl"] = source if source.startswith("s3://") else placeholder(source)
        if source.startswith(MANY):
            container |= {"Mode": "MultiModel", "ModelDataUrl": source.removeprefix(MANY)}
    request: dict[str, Any] = {
        "ModelName": name,
        "ExecutionRoleArn": options.role,
        "PrimaryContainer": container,
        "Tags": tags(options, owner),
    }
    if not getattr(options, "inference_component", False):  # of a component that is the endpoint's
        request |= vpc(options)
        if options.network_isolation:
            request["EnableNetworkIsolation"] = True
    return Call("sagemaker", "create_model", request)


def placeholder(source: str) -> str:
    """Stands in a dry run for what only the look tells."""
    if source.startswith(PACKAGE):
        return f"newest-approved-of-{source.removeprefix(PACKAGE)}"[:63]
    return f"s3://(ModelArtifacts.S3ModelArtifacts of {source})"


def fill_in(calls: list[Call], aws: Aws) -> list[Call]:
    """Make the looks, put what they tell into the other calls, and return those."""
    found = {}
    for call in calls:
        if call.method == "describe_training_job":
            job = call.arguments["TrainingJobName"]
            found[placeholder(job)] = model_of(job, aws(call))
        elif call.method == "list_model_packages":
            group = call.arguments["ModelPackageGroupName"]
            found[placeholder(PACKAGE + group)] = registry.newest(call, aws)
    rest = [call for call in calls if call.method not in ("describe_training_job", "list_model_packages")]
    for call in rest:
        if call.method == "create_model":
            container = call.arguments["PrimaryContainer"]
            key = "ModelDataUrl" if "ModelDataUrl" in container else "ModelPackageName"
            container[key] = found.get(container[key], container[key])
    return rest


def model_of(job: str, answer: dict[str, Any]) -> str:
    model_data = answer.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if answer["TrainingJobStatus"] not in ("Completed", "Stopped") or not model_data:
        raise LaunchError(f"training job {job} is {answer['TrainingJobStatus']} and has no model to serve")
    return str(model_data)
