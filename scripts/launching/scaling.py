"""After `deploy`: how many instances, or copies of a component, follow the load."""

import argparse
import re
from typing import Any

from launching.calls import Call, LaunchError
from launching.request import owner_tag

POLICY_ARN = "(PolicyARN of {name})"
"""Stands in a dry run for what only the policy's creation tells."""


def add_autoscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--autoscale", metavar="MIN:MAX", help="so many instances (copies), by the load")
    parser.add_argument(
        "--target",
        type=float,
        default=8,
        metavar="N",
        help="requests at once (--async: waiting) an instance or copy, that autoscaling aims at (%(default)s)",
    )


def read_range(text: str, lowest: int, option: str = "--autoscale") -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not lowest <= int(match[1]) <= int(match[2]) or not int(match[2]):
        raise LaunchError(f"{option} {text!r} is not MIN:MAX with {lowest} <= MIN <= MAX")
    return int(match[1]), int(match[2])


def of_variants(options: argparse.Namespace, endpoint: str, variants: list[str]) -> list[Call]:
    """Scaling of a real-time endpoint's variants, by the requests that each has under way."""
    bounds = read_range(options.autoscale, lowest=1)
    return [call for variant in variants for call in _of_variant(options, endpoint, variant, bounds)]


def _of_variant(
    options: argparse.Namespace, endpoint: str, variant: str, bounds: tuple[int, int]
) -> list[Call]:
    scaled = _scaled(f"endpoint/{endpoint}/variant/{variant}", "variant:DesiredInstanceCount")
    metric = {"PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"}
    return [
        _register(scaled, bounds),
        _track(scaled, f"{endpoint}-{variant}", options.target, {"PredefinedMetricSpecification": metric}),
    ]


def of_async(options: argparse.Namespace, endpoint: str, variant: str) -> list[Call]:
    """Scaling of an asynchronous endpoint by its backlog, down to no instance at all.

    Both metrics exist for the endpoint only, not for its variant: an alarm on a variant never hears of them.
    """
    bounds = read_range(options.autoscale, lowest=0)
    scaled = _scaled(f"endpoint/{endpoint}/variant/{variant}", "variant:DesiredInstanceCount")
    dimensions = [{"Name": "EndpointName", "Value": endpoint}]
    backlog = {
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Namespace": "AWS/SageMaker",
        "Dimensions": dimensions,
        "Statistic": "Average",
    }
    calls = [
        _register(scaled, bounds),
        _track(scaled, f"{endpoint}-backlog", options.target, {"CustomizedMetricSpecification": backlog}),
    ]
    if bounds[0] == 0:  # without an instance there is no backlog of an instance
        calls += _from_zero(scaled, endpoint, "HasBacklogWithoutCapacity", dimensions)
    return calls


def of_component(options: argparse.Namespace, component: str) -> list[Call]:
    """Scaling of a component's copies, down to none; then their instances go too."""
    bounds = read_range(options.autoscale or "0:1", lowest=0)
    scaled = _scaled(f"inference-component/{component}", "inference-component:DesiredCopyCount")
    metric = {"PredefinedMetricType": "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"}
    calls = [
        _register(scaled, bounds),
        _track(scaled, f"{component}-copies", options.target, {"PredefinedMetricSpecification": metric}),
    ]
    if bounds[0] == 0:
        dimensions = [{"Name": "InferenceComponentName", "Value": component}]
        calls += _from_zero(scaled, component, "NoCapacityInvocationFailures", dimensions)
    return calls


def _scaled(resource: str, dimension: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": resource,
        "ScalableDimension": f"sagemaker:{dimension}",
    }


def _register(scaled: dict[str, str], bounds: tuple[int, int]) -> Call:
    request = {**scaled, "MinCapacity": bounds[0], "MaxCapacity": bounds[1]}
    return Call("application-autoscaling", "register_scalable_target", request)


def _track(scaled: dict[str, str], name: str, target: float, metric: dict[str, Any]) -> Call:
    configuration = {
        "TargetValue": target,
        **metric,
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 300,
    }
    request = {
        **scaled,
        "PolicyName": name,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": configuration,
    }
    return Call("application-autoscaling", "put_scaling_policy", request)


def _from_zero(
    scaled: dict[str, str], owner: str, metric: str, dimensions: list[dict[str, str]]
) -> list[Call]:
    """One more when there is none and somebody asks: a step policy, and the alarm that starts it."""
    name = f"{owner}-from-zero"
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Maximum",
        "Cooldown": 60,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
    }
    policy = {
        **scaled,
        "PolicyName": name,
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": step,
    }
    alarm = {
        "AlarmName": name,
        "MetricName": metric,
        "Namespace": "AWS/SageMaker",
        "Dimensions": dimensions,
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [POLICY_ARN.format(name=name)],
        "Tags": owner_tag(owner),
    }
    return [
        Call("application-autoscaling", "put_scaling_policy", policy),
        Call("cloudwatch", "put_metric_alarm", alarm),
    ]


def fill_in_policy(call: Call, arns: dict[str, str]) -> Call:
    """An alarm starts a policy by its ARN, which the policy's creation has told by now."""
    if actions := call.arguments.get("AlarmActions"):
        call.arguments["AlarmActions"] = [arns.get(action, action) for action in actions]
    return call
