"""`launch.py delete`: everything that a name owns, so that it costs no more, and nothing else."""

import argparse
import re
from collections.abc import Iterator, Sequence

from launching.calls import Aws, Call, LaunchError
from launching.kinds import COMPONENT
from launching.request import OWNER_TAG
from launching.watch import say, wait

HELP = "delete an endpoint and all that was launched with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as it was launched")
    parser.add_argument("--poll-seconds", type=float, default=5)


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """Look at what carries the name's tag, and delete it in the reverse order of its making: first what costs."""
    name = options.name
    calls = list(_owned(name, aws))
    if not calls:
        raise LaunchError(f"nothing in {aws.region} was launched as {name} (tag {OWNER_TAG}={name})")
    return calls


def _owned(name: str, aws: Aws) -> Iterator[Call]:
    yield from _scaling(name, aws)
    for call, member, name_key, arn_key, method in (
        (
            Call("sagemaker", "list_inference_components", {"EndpointNameEquals": name}),
            *("InferenceComponents", "InferenceComponentName", "InferenceComponentArn"),
            "delete_inference_component",
        ),
        (
            Call("sagemaker", "list_endpoints", {"NameContains": name}),
            *("Endpoints", "EndpointName", "EndpointArn", "delete_endpoint"),
        ),
        (
            Call("sagemaker", "list_endpoint_configs", {"NameContains": name}),
            *("EndpointConfigs", "EndpointConfigName", "EndpointConfigArn", "delete_endpoint_config"),
        ),
        (
            Call("sagemaker", "list_models", {"NameContains": name}),
            *("Models", "ModelName", "ModelArn", "delete_model"),
        ),
        (
            Call("sagemaker", "list_pipelines", {"PipelineNamePrefix": name}),
            *("PipelineSummaries", "PipelineName", "PipelineArn", "delete_pipeline"),
        ),
    ):
        for item in aws.pages(call, member):
            if _is_owned(item[arn_key], name, aws):
                yield Call("sagemaker", method, {name_key: item[name_key]})


def _scaling(name: str, aws: Aws) -> Iterator[Call]:
    """Targets take their policies with them; alarms of the name's own are those that `deploy` names so."""
    look = Call("application-autoscaling", "describe_scalable_targets", {"ServiceNamespace": "sagemaker"})
    for target in aws.pages(look, "ScalableTargets"):
        if re.fullmatch(rf"endpoint/{name}/variant/.+|inference-component/{name}", target["ResourceId"]):
            keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
            arguments = {key: target[key] for key in keys}
            yield Call("application-autoscaling", "deregister_scalable_target", arguments)
    alarms = aws.pages(Call("cloudwatch", "describe_alarms", {"AlarmNamePrefix": f"{name}-"}), "MetricAlarms")
    owned = [
        alarm["AlarmName"]
        for alarm in alarms
        if any(dimension["Value"] == name for dimension in alarm["Dimensions"])
        and alarm["AlarmName"].endswith(("-from-zero", "-errors", "-latency"))
    ]
    if owned:
        yield Call("cloudwatch", "delete_alarms", {"AlarmNames": owned})


def _is_owned(arn: str, name: str, aws: Aws) -> bool:
    listed = aws.found(Call("sagemaker", "list_tags", {"ResourceArn": arn})) or {"Tags": []}
    return {"Key": OWNER_TAG, "Value": name} in listed["Tags"]


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    for call in calls:
        what = call.method.removeprefix("delete_").removeprefix("deregister_").replace("_", " ")
        which = next(
            (str(value) for key, value in call.arguments.items() if key.endswith(("Name", "Names", "Id")))
        )
        aws.found(call)
        say(f"{what} {which} is deleted")
        if call.method == "delete_inference_component":  # the endpoint is refused as long as it has one
            described = COMPONENT.described(which)
            wait(lambda described=described: ([], aws.found(described) is None), options.poll_seconds)
