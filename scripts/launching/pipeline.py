"""`launch.py pipeline`: check the data, train, evaluate, register what is good enough; made or brought up to date."""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from launching import models, pipeline_definition, processing, register, state_machine, train
from launching.calls import Aws, Call, LaunchError, read_image
from launching.request import OWNER_TAG, folder_uri, split_uri, tags
from launching.variants import VARIANT
from launching.watch import add_wait, say, wait

HELP = "a SageMaker Pipeline, or a Step Functions state machine, from the data to a registered model"
RUNNING = ("Executing", "Stopping")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_job_arguments(parser)
    add = parser.add_argument
    add("--name", help="of the pipeline, which is brought up to date when it is there; default: PROJECT")
    add("--group", metavar="NAME", help="the model package group; default: PROJECT")
    add(
        "--maximum-error",
        type=float,
        default=20,
        metavar="DEGREES",
        help="mean on --validation (%(default)s)",
    )
    add("--serve-image", metavar="URI", help="default: what serve.digest says")
    add(
        "--step-functions",
        action="store_true",
        help="as a state machine, which also deploys what is approved",
    )
    add("--endpoint-instance-type", default="ml.g5.xlarge", metavar="TYPE", help="with --step-functions")
    add("--start", action="store_true", help="run it")
    add_wait(parser)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """The scripts' upload, the group, and the pipeline; with --start its run. Raises LaunchError."""
    name = options.name = options.name or options.project
    if not options.validation:
        raise LaunchError("--validation: the pipeline measures the model on it")
    group = options.group or options.project
    code = f"{options.output.rstrip('/')}/{name}/code"
    requests = _requests(options, name, group, code)
    uploads = [processing.upload_code(task, code) for task in ("check", "evaluate")]
    grouped = {"ModelPackageGroupName": group, "Tags": tags(options, group)}
    calls = [*uploads, Call("sagemaker", "create_model_package_group", grouped)]
    if options.step_functions:
        return [*calls, *_state_machine(options, name, requests)]
    body = pipeline_definition.definition(
        **requests,
        data=folder_uri(options.data),
        validation=folder_uri(options.validation),
        maximum_error_degrees=options.maximum_error,
    )
    request = {
        "PipelineName": name,
        "PipelineDefinition": json.dumps(body),
        "RoleArn": options.role,
        "Tags": tags(options, name),
    }
    calls.append(Call("sagemaker", "create_pipeline", request))
    if options.start:
        calls.append(Call("sagemaker", "start_pipeline_execution", {"PipelineName": name}))
    return calls


def _requests(options: argparse.Namespace, name: str, group: str, code: str) -> dict[str, Any]:
    """What the steps ask of SageMaker, without the names of jobs."""
    output = f"{options.output.rstrip('/')}/{name}"
    image = read_image("train", options.image)
    cpu = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": options.volume_size}
    gpu = cpu | {"InstanceType": options.instance_type}
    shared = {"image": image, "role": options.role, "code": code}
    package = register.package(
        group=group,
        image=read_image("serve", options.serve_image),
        model_data=models.placeholder("Train"),
        metrics=f"{output}/evaluation/evaluation.json",
        approval="pending",
        description=f"pipeline {name}",
    )
    return {
        "check": processing.job(
            "check",
            processing.check_arguments(),
            inputs={"data": folder_uri(options.data)},
            output=f"{output}/check",
            resources=cpu,
            **shared,
        ),
        "training": train.job(options, name),
        "evaluate": processing.job(
            "evaluate",
            processing.evaluate_arguments(),
            inputs={"data": folder_uri(options.validation), "model": models.placeholder("Train")},
            output=f"{output}/evaluation",
            resources=gpu,
            **shared,
        ),
        "package": package,
    }


def _state_machine(options: argparse.Namespace, name: str, requests: dict[str, Any]) -> list[Call]:
    bucket, prefix = split_uri(f"{options.output.rstrip('/')}/{name}")
    instance_type = options.endpoint_instance_type
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "InstanceType": instance_type,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 600,
    }
    if ami := models.host_ami(instance_type, models.cuda_of(options.serve_image, instance_type)):
        variant["InferenceAmiVersion"] = ami
    body = state_machine.definition(
        **requests,
        bucket=bucket,
        prefix=prefix,
        maximum_error_degrees=options.maximum_error,
        role=options.role,
        variant=variant,
        environment={"METRICS_PROJECT": options.project},
    )
    request = {
        "name": name,
        "definition": json.dumps(body),
        "roleArn": options.role,
        "tags": [{"key": OWNER_TAG, "value": name}],
    }
    calls = [Call("stepfunctions", "create_state_machine", request)]
    if options.start:
        run = {
            "stateMachineArn": f"(of {name})",
            "name": f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        }
        calls.append(Call("stepfunctions", "start_execution", run))
    return calls


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    arn = None
    for call in calls:
        if call.method == "create_model_package_group":
            register.make_group(call, aws)
        elif call.method == "create_pipeline":
            _create_or_update_pipeline(call, aws)
        elif call.method == "create_state_machine":
            arn = _create_or_update_machine(call, aws)
        elif call.method == "start_execution":
            call.arguments["stateMachineArn"] = arn
            say(f"started: {aws(call)['executionArn']}")
        elif call.method == "start_pipeline_execution":
            _watch(aws(call)["PipelineExecutionArn"], options, aws)
        else:
            aws(call)


def _create_or_update_pipeline(call: Call, aws: Aws) -> None:
    name = call.arguments["PipelineName"]
    if aws.found(Call("sagemaker", "describe_pipeline", {"PipelineName": name})) is None:
        aws(call)
        say(f"pipeline {name} is made")
        return
    kept = {key: value for key, value in call.arguments.items() if key != "Tags"}
    aws(Call("sagemaker", "update_pipeline", kept))
    say(f"pipeline {name} is brought up to date")


def _create_or_update_machine(call: Call, aws: Aws) -> str:
    name = call.arguments["name"]
    machines = aws.pages(Call("stepfunctions", "list_state_machines", {}), "stateMachines")
    for machine in machines:
        if machine["name"] == name:
            kept = {key: call.arguments[key] for key in ("definition", "roleArn")}
            aws(
                Call(
                    "stepfunctions",
                    "update_state_machine",
                    {"stateMachineArn": machine["stateMachineArn"], **kept},
                )
            )
            say(f"state machine {name} is brought up to date")
            return str(machine["stateMachineArn"])
    arn = aws(call)["stateMachineArn"]
    say(f"state machine {name} is made: {arn}")
    return str(arn)


def _watch(arn: str, options: argparse.Namespace, aws: Aws) -> None:
    """The steps as they come and go. Raises LaunchError with the reason when one fails."""
    say(f"started: {arn}")
    if not options.wait:
        return
    end: dict[str, Any] = {}

    def look() -> tuple[list[str], bool]:
        end.update(aws(Call("sagemaker", "describe_pipeline_execution", {"PipelineExecutionArn": arn})))
        listed = Call("sagemaker", "list_pipeline_execution_steps", {"PipelineExecutionArn": arn})
        steps = sorted(
            aws.pages(listed, "PipelineExecutionSteps"), key=lambda step: str(step.get("StartTime"))
        )
        story = [
            f"{step['StepName']} {step['StepStatus']} {step.get('FailureReason', '')}".rstrip()
            for step in steps
        ]
        return [*story, end["PipelineExecutionStatus"]], end["PipelineExecutionStatus"] not in RUNNING

    try:
        wait(look, options.poll_seconds)
    except KeyboardInterrupt:
        raise LaunchError(f"no longer watching; the run goes on: {arn}") from None
    if end["PipelineExecutionStatus"] != "Succeeded":
        raise LaunchError(
            f"the run is {end['PipelineExecutionStatus']}: {end.get('FailureReason', 'see its steps')}"
        )
    print(f"next, when the model is approved: launch.py deploy --package {options.group or options.project}")
