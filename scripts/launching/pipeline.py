"""`launch.py pipeline`: check the data, train, evaluate, register what is good enough; made or brought up to date."""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from launching import models, pipeline_definition, processing, register, state_machine, train
from launching.calls import Aws, Call, LaunchError, read_image
from launching.limits import check_limits
from launching.network import check_security_groups, security_groups
from launching.request import OWNER_TAG, folder_uri, split_uri, tags, vpc
from launching.runs import Run, find_machine, follow_run
from launching.variants import VARIANT
from launching.watch import add_wait, say

HELP = "a SageMaker Pipeline, or a Step Functions state machine, from the data to a registered model"


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
    add(
        "--evaluate-instance-type",
        default="ml.g5.xlarge",
        metavar="TYPE",
        help="of the evaluation (%(default)s)",
    )
    add(
        "--pipeline-role",
        metavar="ARN",
        help="the role that the pipeline itself takes, to start its jobs (`launch.py policy pipeline-role`); "
        "default: --role, which then needs that too",
    )
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
    calls = [*security_groups(options), *uploads, Call("sagemaker", "create_model_package_group", grouped)]
    if options.step_functions:
        return _made_or_updated([*calls, *_state_machine(options, name, requests)], aws)
    body = pipeline_definition.definition(
        **requests,
        data=folder_uri(options.data),
        validation=folder_uri(options.validation),
        maximum_error_degrees=options.maximum_error,
    )
    request = {
        "PipelineName": name,
        "PipelineDefinition": json.dumps(body),
        "RoleArn": options.pipeline_role or options.role,
        "Tags": tags(options, name),
    }
    calls.append(Call("sagemaker", "create_pipeline", request))
    if options.start:
        calls.append(Call("sagemaker", "start_pipeline_execution", {"PipelineName": name}))
    return _made_or_updated(calls, aws)


def _made_or_updated(calls: list[Call], aws: Aws) -> list[Call]:
    """The same calls, the creation as an update where there is such a pipeline already: AWS is asked.

    Before that they are held against the limits, as those of every verb.
    """
    check_limits(calls, aws.known_region)
    return [_update(call, aws) or call for call in calls]


def _update(call: Call, aws: Aws) -> Call | None:
    if call.method == "create_pipeline":
        name = call.arguments["PipelineName"]
        if aws.found(Call("sagemaker", "describe_pipeline", {"PipelineName": name})):
            kept = {key: value for key, value in call.arguments.items() if key != "Tags"}
            return Call("sagemaker", "update_pipeline", kept)
    if call.method == "create_state_machine" and (arn := find_machine(call.arguments["name"], aws)):
        kept = {key: call.arguments[key] for key in ("definition", "roleArn")}
        return Call("stepfunctions", "update_state_machine", {"stateMachineArn": arn, **kept})
    return None


def _requests(options: argparse.Namespace, name: str, group: str, code: str) -> dict[str, Any]:
    """What the steps ask of SageMaker, without the names of jobs."""
    output = f"{options.output.rstrip('/')}/{name}"
    image = read_image("train", options.image)
    cpu = {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": options.volume_size}
    gpu = cpu | {"InstanceType": options.evaluate_instance_type}
    shared = {"image": image, "role": options.role, "code": code}
    package = register.package(
        group=group,
        image=read_image("serve", options.serve_image),
        model_data=models.placeholder("Train"),
        metrics=f"{output}/evaluation/evaluation.json",
        approval="pending",
        description=f"pipeline {name}",
    )
    requests = {
        "check": processing.job(
            "check",
            processing.check_arguments(),
            inputs={"data": folder_uri(options.data)},
            output=f"{output}/check",
            resources=dict(cpu),
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
    for task in ("check", "evaluate"):
        processing.protect(requests[task], options)
    return requests


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
    model = {"ExecutionRoleArn": options.role, **vpc(options)}
    if options.network_isolation:
        model["EnableNetworkIsolation"] = True
    body = state_machine.definition(
        **requests,
        bucket=bucket,
        prefix=prefix,
        maximum_error_degrees=options.maximum_error,
        model=model,
        variant=variant,
        volume_key=options.volume_kms_key,
        project=options.project,
    )
    request = {
        "name": name,
        "definition": json.dumps(body),
        "roleArn": options.pipeline_role or options.role,
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
    machine = ""
    for call in calls:
        if call.method == "describe_security_groups":
            check_security_groups(aws(call), call.arguments["GroupIds"])
            continue
        if call.method == "create_model_package_group":
            register.make_group(call, aws)
            continue
        if call.method == "start_execution":
            call.arguments["stateMachineArn"] = machine
        answer = aws(call)
        if call.client == "stepfunctions":
            machine = call.arguments.get("stateMachineArn") or answer.get("stateMachineArn", "")
        verb, what = call.method.split("_", 1)
        if verb in ("create", "update"):
            done = "made" if verb == "create" else "brought up to date"
            say(f"{what.replace('_', ' ')} {options.name} is {done}")
        elif verb == "start":
            _watch(
                Run(options.name, answer.get("executionArn") or answer["PipelineExecutionArn"]), options, aws
            )


def _watch(run: Run, options: argparse.Namespace, aws: Aws) -> None:
    say(f"started: {run.arn}")
    if not options.wait:
        print(f"to come back: launch.py status {run.name} --wait")
        return
    follow_run(run, options, aws)
    if not run.is_of_machine:
        group = options.group or options.project
        print(
            f"next: launch.py deploy --package {group} --when-approved, which waits until somebody approves it"
        )
