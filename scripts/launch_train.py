"""`launch.py train`: one training job on the image that `make push` sent, watched to its end."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from launch_calls import ROOT, Aws, Call, LaunchError, default_name, read_image, say, wait

HELP = "start a training job and wait for its end"
MAXIMUM_RUNTIME_SECONDS = 28 * 24 * 3600  # SageMaker's; boto3's description carries no maximum
DOCUMENTED_VALUE_CHARACTERS = 256  # the API's prose; boto3's description says 2500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--role",
        required=True,
        metavar="ARN",
        help="the role that the job takes: reads the data, writes the model",
    )
    add("--data", required=True, metavar="S3_URI", help="the channel `train`: a folder in S3")
    add("--validation", metavar="S3_URI", help="the channel `validation`")
    add("--channel", action="append", default=[], metavar="NAME=S3_URI", help="any other; may be repeated")
    add("--output", required=True, metavar="S3_URI", help="where NAME/output/model.tar.gz goes")
    add("--checkpoint", metavar="S3_URI", help="where checkpoints are kept while the job runs")
    add("--project", default="surface-normals", help="begins the default name, and marks the metrics")
    add("--name", help="default: PROJECT and the time")
    add("--hyperparameter", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("--hyperparameters", default="{}", metavar="JSON", help="the same as one JSON object")
    package = os.environ.get("MODEL_PACKAGE") or "surface_normals"
    add("--model-package", default=package, help="the folder in container/ that the image was built with")
    add("--instance-type", default="ml.g5.xlarge")
    add("--instance-count", type=int, default=1)
    add(
        "--volume-size",
        type=int,
        default=100,
        metavar="GB",
        help="no effect where the instance has its own disk",
    )
    add("--max-runtime", type=int, default=24 * 3600, metavar="SECONDS")
    add("--spot", action="store_true", help="spare capacity: cheaper, may be interrupted; use --checkpoint")
    add("--instance-usd-per-hour", metavar="PRICE", help="of one instance; then metrics tell the cost, too")
    add("--image", metavar="URI", help="default: what train.digest says")
    add("--no-wait", action="store_true", help="return as soon as the job is accepted")
    add("--poll-seconds", type=float, default=15, help="how often to look")


def plan(options: argparse.Namespace) -> list[Call]:
    """The one call, create_training_job. Raises LaunchError."""
    options.name = options.name or default_name(options.project)
    if not 1 <= options.max_runtime <= MAXIMUM_RUNTIME_SECONDS:
        raise LaunchError(
            f"--max-runtime {options.max_runtime}: from 1 to {MAXIMUM_RUNTIME_SECONDS} s (28 days)"
        )
    if options.instance_count < 1:
        raise LaunchError(f"--instance-count {options.instance_count}: at least 1")
    hyperparameters = read_hyperparameters(options.hyperparameters, options.hyperparameter)
    check_hyperparameters(hyperparameters, options.model_package)
    channels = {"train": options.data}
    if options.validation:
        channels["validation"] = options.validation
    channels |= dict(_assignment(text, "--channel") for text in options.channel)

    stopping = {"MaxRuntimeInSeconds": options.max_runtime}
    request: dict[str, Any] = {
        "TrainingJobName": options.name,
        "RoleArn": options.role,
        "AlgorithmSpecification": {
            "TrainingImage": read_image("train", options.image),
            "TrainingInputMode": "File",
            "MetricDefinitions": read_metric_definitions(options.model_package),
        },
        "HyperParameters": hyperparameters,
        "InputDataConfig": [_channel(name, uri) for name, uri in channels.items()],
        "OutputDataConfig": {"S3OutputPath": options.output},
        "ResourceConfig": {
            "InstanceType": options.instance_type,
            "InstanceCount": options.instance_count,
            "VolumeSizeInGB": options.volume_size,
        },
        "StoppingCondition": stopping,
        "Environment": {"METRICS_PROJECT": options.project},
    }
    if options.instance_usd_per_hour:
        request["Environment"]["INSTANCE_USD_PER_HOUR"] = options.instance_usd_per_hour
    if options.checkpoint:
        request["CheckpointConfig"] = {"S3Uri": options.checkpoint}
    if options.spot:
        request["EnableManagedSpotTraining"] = True
        # Run time and the wait for capacity together; AWS refuses less than the run time.
        stopping["MaxWaitTimeInSeconds"] = 2 * options.max_runtime
        if not options.checkpoint:
            print("without --checkpoint an interrupted spot job starts from nothing", file=sys.stderr)
    return [Call("sagemaker", "create_training_job", request)]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    """Start the job; print each change of its state. Raises LaunchError when it does not complete."""
    name = options.name
    aws(calls[0])
    say(f"training job {name} is accepted")
    if options.no_wait:
        return
    job: dict[str, Any] = {}

    def look() -> tuple[list[str], bool]:
        job.update(aws(Call("sagemaker", "describe_training_job", {"TrainingJobName": name})))
        steps = job.get("SecondaryStatusTransitions", [])
        story = [": ".join(filter(None, (step["Status"], step.get("StatusMessage")))) for step in steps]
        return story, job["TrainingJobStatus"] not in ("InProgress", "Stopping")

    try:
        wait(look, options.poll_seconds)
    except KeyboardInterrupt:
        stop = f"aws sagemaker stop-training-job --training-job-name {name}"
        raise LaunchError(f"no longer watching; the job goes on. To end it: {stop}") from None
    if job["TrainingJobStatus"] != "Completed":
        raise LaunchError(
            f"training job {name} is {job['TrainingJobStatus']}: {job.get('FailureReason') or 'no reason given'}"
            f"\nits log: CloudWatch group /aws/sagemaker/TrainingJobs, streams {name}/..."
        )
    for metric in job.get("FinalMetricDataList", []):
        print(f"{metric['MetricName']} {metric['Value']:g}")
    print(f"model: {job['ModelArtifacts']['S3ModelArtifacts']}\nnext: launch.py deploy --job {name}")


def read_hyperparameters(text: str, assignments: Sequence[str]) -> dict[str, str]:
    """Both ways of giving them as SageMaker's strings; `--hyperparameter` wins. Raises LaunchError."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise LaunchError(f"--hyperparameters is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise LaunchError("--hyperparameters must be a JSON object, such as '{\"epochs\": 20}'")
    hyperparameters = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
    }
    hyperparameters |= dict(_assignment(text, "--hyperparameter") for text in assignments)
    for name, value in hyperparameters.items():
        if len(value) > DOCUMENTED_VALUE_CHARACTERS:
            print(f"{name}: AWS documents {DOCUMENTED_VALUE_CHARACTERS} characters at most", file=sys.stderr)
    return hyperparameters


def check_hyperparameters(hyperparameters: dict[str, str], package: str) -> None:
    """Let the model's own `Config` judge them, with the code the job will use. Raises LaunchError."""
    container = str(ROOT / "container")
    if container not in sys.path:
        sys.path.insert(0, container)
    from model_api import ModelPackageError, load_training
    from training.hyperparameters import resolve

    try:
        config, _ = load_training(package)
        resolve(config, hyperparameters)
    except (ModelPackageError, ValueError) as error:
        raise LaunchError(str(error)) from None
    except ImportError as error:  # a model may need more than launching does
        print(f"the hyperparameters are not checked here: {error}", file=sys.stderr)


def read_metric_definitions(package: str) -> list[dict[str, str]]:
    """What CloudWatch is to read out of the job's log: shipped beside the model that prints it."""
    path = ROOT / "container" / package / "metric_definitions.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"no {path.relative_to(ROOT)}: is --model-package {package!r} right?") from None


def _assignment(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise LaunchError(f"{option} {text!r} is not NAME=VALUE")
    return name, value


def _channel(name: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                # A prefix is a beginning, not a folder: `data/train` would bring `data/train-old` too.
                "S3Uri": f"{uri.rstrip('/')}/",
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }
