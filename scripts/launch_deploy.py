"""`launch.py deploy`: a trained model behind an HTTPS endpoint, watched until it serves."""

import argparse
import contextlib
import re
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from launch_calls import Aws, Call, LaunchError, default_name, read_image, say, wait

HELP = "make a model, an endpoint configuration and an endpoint, and wait until it serves"
VARIANT = "AllTraffic"
UNDO = {
    "create_model": ("delete_model", "ModelName"),
    "create_endpoint_config": ("delete_endpoint_config", "EndpointConfigName"),
    "create_endpoint": ("delete_endpoint", "EndpointName"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--job", metavar="NAME", help="serve the model of this training job")
    model.add_argument("--model-data", metavar="S3_URI", help="serve this model.tar.gz")
    add(
        "--role", required=True, metavar="ARN", help="the role that the endpoint takes: reads model and image"
    )
    add("--project", default="surface-normals", help="begins the default name, and marks the metrics")
    add("--name", help="of the endpoint, its configuration and its model; default: PROJECT and the time")
    add("--instance-type", default="ml.g5.xlarge")
    add("--instance-count", type=int, default=1)
    add(
        "--startup-timeout",
        type=int,
        default=600,
        metavar="SECONDS",
        help="from container start to a ready /ping",
    )
    add(
        "--inference-ami",
        metavar="VERSION",
        help="the host's image and so its driver; default: by instance type",
    )
    add("--instance-usd-per-hour", metavar="PRICE", help="of one instance; then metrics tell the cost, too")
    add("--image", metavar="URI", help="default: what serve.digest says")
    add("--no-wait", action="store_true", help="return as soon as the endpoint is accepted")
    add("--poll-seconds", type=float, default=15, help="how often to look")


def host_ami(instance_type: str) -> str | None:
    """The newest host image with a driver for a CUDA 12.8 container on this instance; None: no GPU.

    It must be named: left to itself SageMaker starts g4dn, g5 and p4d hosts with driver 470, on which
    CUDA 12 does not run at all, mostly without a word in the log. 3-1 has driver 550, on which all of
    CUDA 12 runs. 4-1 (driver 580) is made for CUDA 13, and CUDA 12.9 containers have been seen to hang
    on it, but Blackwell GPUs (g7, g7e, p6) need at least driver 570.
    """
    if not re.match(r"ml\.[gp]\d", instance_type):
        return None
    if re.match(r"ml\.(g7|p6)", instance_type):
        return "al2023-ami-sagemaker-inference-gpu-4-1"
    return "al2-ami-sagemaker-inference-gpu-3-1"


def plan(options: argparse.Namespace) -> list[Call]:
    """Three creations of one name, before them with --job a look at where the job's model is."""
    name = options.name = options.name or default_name(options.project)
    look = []
    model_data = options.model_data
    if options.job:
        look = [Call("sagemaker", "describe_training_job", {"TrainingJobName": options.job})]
        model_data = f"s3://(ModelArtifacts.S3ModelArtifacts of {options.job})"
    elif not re.fullmatch(r"s3://[^/]+/.+\.tar\.gz", model_data):
        raise LaunchError(f"--model-data {model_data!r} is not an s3://.../model.tar.gz")
    if options.instance_count < 1:
        raise LaunchError(f"--instance-count {options.instance_count}: at least 1")
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "ModelName": name,
        "InstanceType": options.instance_type,
        "InitialInstanceCount": options.instance_count,
        "ContainerStartupHealthCheckTimeoutInSeconds": options.startup_timeout,
        # Pictures cost unlike: the next one goes to the instance with the fewest under way.
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    ami = options.inference_ami or host_ami(options.instance_type)
    if ami:
        variant["InferenceAmiVersion"] = ami
    container: dict[str, Any] = {
        "Image": read_image("serve", options.image),
        "ModelDataUrl": model_data,
        # SageMaker tells a container neither: they are the dimensions of its metrics.
        "Environment": {"ENDPOINT_NAME": name, "VARIANT_NAME": VARIANT, "METRICS_PROJECT": options.project},
    }
    if options.instance_usd_per_hour:
        container["Environment"]["INSTANCE_USD_PER_HOUR"] = options.instance_usd_per_hour
    model = {"ModelName": name, "ExecutionRoleArn": options.role, "PrimaryContainer": container}
    return [
        *look,
        Call("sagemaker", "create_model", model),
        Call(
            "sagemaker",
            "create_endpoint_config",
            {"EndpointConfigName": name, "ProductionVariants": [variant]},
        ),
        Call("sagemaker", "create_endpoint", {"EndpointName": name, "EndpointConfigName": name}),
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Make all three or none, then wait. Raises LaunchError when the endpoint does not come up."""
    name = options.name
    if options.job:
        look, *calls = calls
        calls[0].arguments["PrimaryContainer"]["ModelDataUrl"] = _model_of(options.job, aws(look))
    made: list[Call] = []
    try:
        for call in calls:
            aws(call)
            made.append(call)
    except ClientError:
        for call in reversed(made):
            method, key = UNDO[call.method]
            with contextlib.suppress(ClientError):  # the refusal to report is the one that brought us here
                aws(Call("sagemaker", method, {key: name}))
        raise
    say(f"endpoint {name} is accepted; it costs money until `launch.py delete --endpoint {name}`")
    if options.no_wait:
        return
    endpoint: dict[str, Any] = {}

    def watch() -> tuple[list[str], bool]:
        endpoint.update(aws(Call("sagemaker", "describe_endpoint", {"EndpointName": name})))
        status = endpoint["EndpointStatus"]
        return [status], status in ("InService", "OutOfService", "Failed", "UpdateRollbackFailed")

    try:
        wait(watch, options.poll_seconds)
    except KeyboardInterrupt:
        raise LaunchError(f"no longer watching; endpoint {name} goes on coming up") from None
    if endpoint["EndpointStatus"] != "InService":
        raise LaunchError(
            f"endpoint {name} is {endpoint['EndpointStatus']}: {endpoint.get('FailureReason') or 'no reason given'}"
            f"\nits log: CloudWatch group /aws/sagemaker/Endpoints/{name}; the last line names the cause."
            "\nNo log at all means that the container never started. Check: may the role pull the image from ECR;"
            " is the image of this region and linux/amd64; has the host a driver for it (--inference-ami)."
            f"\nRemove it with: launch.py delete --endpoint {name}"
        )
    print(f"next: launch.py invoke --endpoint {name} picture.jpg")


def _model_of(job: str, answer: dict[str, Any]) -> str:
    model_data = answer.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if answer["TrainingJobStatus"] not in ("Completed", "Stopped") or not model_data:
        raise LaunchError(f"training job {job} is {answer['TrainingJobStatus']} and has no model to serve")
    return str(model_data)
