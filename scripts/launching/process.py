"""`launch.py process`: the train image as a Processing job: a data set checked or converted, a model measured."""

import argparse
from collections.abc import Sequence

from launching import processing
from launching.calls import Aws, Call, LaunchError, default_name, read_image
from launching.kinds import PROCESSING
from launching.models import model_of, placeholder
from launching.request import add_network, add_tags, assignments, folder_uri, tags
from launching.watch import add_wait, follow, say

HELP = "check or convert a data set, or measure a model, on an instance of its own"
MAXIMUM_RUNTIME_SECONDS = 777_600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("task", choices=tuple(processing.SCRIPTS))
    add("--role", required=True, metavar="ARN", help="the role that the job takes")
    add("--data", required=True, metavar="S3_URI", help="the data set's folder")
    add("--output", required=True, metavar="S3_URI", help="NAME/ below it has what the job writes")
    add("--job", metavar="NAME", help="evaluate: the model of this training job")
    add("--model-data", metavar="S3_URI", help="evaluate: this model.tar.gz")
    add("--depth", metavar="S3_URI", help="convert: the folder of the depth maps; --data has the pictures")
    add("--camera", metavar="S3_URI", help="convert: the folder with the camera's camera.json")
    add("--project", default="surface-normals")
    add("--name", help="default: PROJECT, the task and the time")
    add("--instance-type", help="default: ml.m5.xlarge, to evaluate ml.g5.xlarge")
    add("--volume-size", type=int, default=100, metavar="GB")
    add("--max-runtime", type=int, default=24 * 3600, metavar="SECONDS")
    add("--environment", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("--image", metavar="URI", help="default: what train.digest says")
    add_network(parser)
    add_tags(parser)
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """The script's upload, then the job; with --job before them the look at where the model is."""
    task = options.task
    name = options.name = options.name or default_name(f"{options.project}-{task}")
    if not 1 <= options.max_runtime <= MAXIMUM_RUNTIME_SECONDS:
        raise LaunchError(
            f"--max-runtime {options.max_runtime}: from 1 to {MAXIMUM_RUNTIME_SECONDS} s (9 days)"
        )
    looks = []
    inputs = {"data": folder_uri(options.data)}
    output = f"{options.output.rstrip('/')}/{name}"
    if task == "check":
        arguments = processing.check_arguments()
    elif task == "evaluate":
        if bool(options.job) == bool(options.model_data):
            raise LaunchError("evaluate: give --job or --model-data")
        inputs["model"] = options.model_data or placeholder(options.job)
        if options.job:
            looks = [Call("sagemaker", "describe_training_job", {"TrainingJobName": options.job})]
        arguments = processing.evaluate_arguments()
    else:
        if not options.depth or not options.camera:
            raise LaunchError(
                "convert: give --depth and --camera; it makes normals of an RGB-D camera's depth"
            )
        inputs |= {"depth": folder_uri(options.depth), "camera": folder_uri(options.camera)}
        arguments = processing.convert_arguments()
    resources = {
        "InstanceType": options.instance_type or ("ml.g5.xlarge" if task == "evaluate" else "ml.m5.xlarge"),
        "InstanceCount": 1,
        "VolumeSizeInGB": options.volume_size,
    }
    request = processing.job(
        task,
        arguments,
        image=read_image("train", options.image),
        role=options.role,
        code=f"{output}/code",
        inputs=inputs,
        output=f"{output}/output",
        resources=resources,
        max_runtime_seconds=options.max_runtime,
    )
    request |= {"ProcessingJobName": name, "Tags": tags(options, name)}
    if variables := assignments(options.environment, "--environment"):
        request["Environment"] = variables
    processing.protect(request, options)
    return [
        *looks,
        processing.upload_code(task, f"{output}/code"),
        Call("sagemaker", "create_processing_job", request),
    ]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    name = options.name
    *looks, upload, create = calls
    for look in looks:
        model = model_of(options.job, aws(look))
        for row in create.arguments["ProcessingInputs"]:
            if row["InputName"] == "model":
                row["S3Input"]["S3Uri"] = model
    aws(upload)
    aws(create)
    say(PROCESSING.accepted(name, aws.region))
    if not options.wait:
        return
    follow(PROCESSING, name, options, aws)
    output = create.arguments["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]
    print(f"written: {output}\nnext: launch.py download {output} FOLDER")
