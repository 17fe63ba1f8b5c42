"""`launch.py delete`: everything that a name owns, so that it costs no more, and nothing else."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from launching.calls import Aws, Call, LaunchError
from launching.kinds import COMPONENT, ENDPOINT
from launching.request import OWNER_TAG
from launching.variants import CUT_CHARACTERS
from launching.watch import leaving, say, wait

HELP = "delete all that was launched under a name, but for what jobs have written"
SERVING = (
    ("list_endpoints", "Endpoints", "EndpointName", "EndpointArn", "delete_endpoint"),
    (
        "list_endpoint_configs",
        "EndpointConfigs",
        "EndpointConfigName",
        "EndpointConfigArn",
        "delete_endpoint_config",
    ),
    ("list_models", "Models", "ModelName", "ModelArn", "delete_model"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as it was launched")
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stay until the endpoint is gone (default)",
    )
    parser.add_argument("--poll-seconds", type=float, default=5)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Look at what carries the name's tag, and delete it in the reverse order of its making: first what costs."""
    name = options.name
    calls = [*_served(name, aws), *_pipelines(name, aws), *_machines(name, aws), *_registered(name, aws)]
    if not calls:
        raise LaunchError(f"nothing in {aws.region} was launched as {name} (tag {OWNER_TAG}={name})")
    return calls


def _served(name: str, aws: Aws) -> list[Call]:
    """An endpoint with all that belongs to it, or what is left of one.

    An endpoint of that name that somebody else made keeps all: `update` may have given it a configuration of ours.
    """
    there = aws.found(ENDPOINT.described(name))
    if there and not _is_owned(there["EndpointArn"], name, aws):
        return []
    parts = [
        Call("sagemaker", method, {name_key: item[name_key]})
        for listing, member, name_key, arn_key, method in SERVING
        for item in aws.pages(Call("sagemaker", listing, {"NameContains": name[:CUT_CHARACTERS]}), member)
        if _is_owned(item[arn_key], name, aws)
    ]
    components = [
        Call(
            "sagemaker",
            "delete_inference_component",
            {"InferenceComponentName": item["InferenceComponentName"]},
        )
        for item in aws.pages(
            Call("sagemaker", "list_inference_components", {"EndpointNameEquals": name}),
            "InferenceComponents",
        )
        if _is_owned(item["InferenceComponentArn"], name, aws)
    ]
    alarms = _alarms(name, aws)
    # A scaling has no tag: it belongs to the endpoint, whose name nobody else can have meanwhile.
    scaling = _scaling(name, aws) if parts or components or alarms else []
    return [*scaling, *alarms, *components, *parts]


def _scaling(name: str, aws: Aws) -> list[Call]:
    """The targets, which take their policies with them."""
    look = Call("application-autoscaling", "describe_scalable_targets", {"ServiceNamespace": "sagemaker"})
    keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
    return [
        Call("application-autoscaling", "deregister_scalable_target", {key: target[key] for key in keys})
        for target in aws.pages(look, "ScalableTargets")
        if target["ResourceId"] == f"inference-component/{name}"
        or target["ResourceId"].startswith(f"endpoint/{name}/variant/")
    ]


def _alarms(name: str, aws: Aws) -> list[Call]:
    look = Call("cloudwatch", "describe_alarms", {"AlarmNamePrefix": f"{name}-"})
    owned = [
        alarm["AlarmName"]
        for alarm in aws.pages(look, "MetricAlarms")
        if _has_tag(
            Call("cloudwatch", "list_tags_for_resource", {"ResourceARN": alarm["AlarmArn"]}), name, aws
        )
    ]
    return [Call("cloudwatch", "delete_alarms", {"AlarmNames": owned})] if owned else []


def _pipelines(name: str, aws: Aws) -> Iterator[Call]:
    look = Call("sagemaker", "list_pipelines", {"PipelineNamePrefix": name})
    for item in aws.pages(look, "PipelineSummaries"):
        if _is_owned(item["PipelineArn"], name, aws):
            yield Call("sagemaker", "delete_pipeline", {"PipelineName": item["PipelineName"]})


def _machines(name: str, aws: Aws) -> Iterator[Call]:
    for item in aws.pages(Call("stepfunctions", "list_state_machines", {}), "stateMachines"):
        arn = item["stateMachineArn"]
        look = Call("stepfunctions", "list_tags_for_resource", {"resourceArn": arn})
        if item["name"] == name and _has_tag(look, name, aws):
            yield Call("stepfunctions", "delete_state_machine", {"stateMachineArn": arn})


def _registered(name: str, aws: Aws) -> Iterator[Call]:
    """A registry group, after its models: it must be empty."""
    look = Call("sagemaker", "list_model_package_groups", {"NameContains": name})
    for group in aws.pages(look, "ModelPackageGroupSummaryList"):
        group_name = group["ModelPackageGroupName"]
        if group_name != name or not _is_owned(group["ModelPackageGroupArn"], name, aws):
            continue
        packages = Call("sagemaker", "list_model_packages", {"ModelPackageGroupName": group_name})
        for package in aws.pages(packages, "ModelPackageSummaryList"):
            yield Call("sagemaker", "delete_model_package", {"ModelPackageName": package["ModelPackageArn"]})
        yield Call("sagemaker", "delete_model_package_group", {"ModelPackageGroupName": group_name})


def _is_owned(arn: str, name: str, aws: Aws) -> bool:
    return _has_tag(Call("sagemaker", "list_tags", {"ResourceArn": arn}), name, aws)


def _has_tag(look: Call, name: str, aws: Aws) -> bool:
    answer: dict[str, Any] = aws.found(look) or {}
    pairs = [
        {key.lower(): text for key, text in tag.items()}
        for tag in answer.get("Tags") or answer.get("tags") or []
    ]
    return {"key": OWNER_TAG, "value": name} in pairs


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    with leaving("what is asked for already", f"launch.py delete {options.name}"):
        for call in calls:
            what = call.method.removeprefix("delete_").removeprefix("deregister_").replace("_", " ")
            which = next(
                str(value)
                for key, value in call.arguments.items()
                if key.endswith(("Name", "Names", "Id", "Arn"))
            )
            aws.found(call)
            say(f"{what} {which} is deleted")
            if call.method == "delete_inference_component":  # the endpoint is refused as long as it has one
                described = COMPONENT.described(which)
                wait(lambda described=described: ([], aws.found(described) is None), options.poll_seconds)
        if options.wait and any(call.method == "delete_endpoint" for call in calls):
            wait(lambda: _look(options.name, aws), options.poll_seconds)


def _look(name: str, aws: Aws) -> tuple[list[str], bool]:
    answer = aws.found(ENDPOINT.described(name))
    return (
        [f"endpoint {name}: {answer['EndpointStatus']}"] if answer else [f"endpoint {name} is gone"]
    ), not answer
