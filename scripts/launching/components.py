"""`deploy --inference-component`: copies of the model on instances that come and go with them, down to none."""

import argparse
from typing import Any

from launching import scaling
from launching.calls import Call, LaunchError
from launching.models import is_gpu
from launching.request import instance_types, tags, vpc
from launching.variants import VARIANT, Variant, extras, host


def add_component(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--inference-component", action="store_true", help="copies that scale by the load, to zero by default"
    )
    add("--copy-memory", type=int, default=6144, metavar="MB", help="memory of one copy")
    add("--copy-accelerators", type=int, metavar="N", help="GPUs of one copy; default: 1 where there are any")


def create_config(options: argparse.Namespace, name: str, variants: list[Variant]) -> Call:
    """A configuration without a model: components bring theirs, and it the network that they are in.

    Raises LaunchError for what they cannot have.
    """
    if options.serverless or options.asynchronous or len(variants) > 1:
        raise LaunchError("--inference-component goes without --serverless, --async, --variant and --shadow")
    _, most = scaling.read_range(options.autoscale or "0:1", lowest=0)
    row = host(options) | {
        "VariantName": VARIANT,
        "ManagedInstanceScaling": {
            "Status": "ENABLED",
            "MinInstanceCount": 0,
            "MaxInstanceCount": max(most, options.instance_count),
        },
    }
    request: dict[str, Any] = {
        "EndpointConfigName": name,
        "ExecutionRoleArn": options.role,
        "ProductionVariants": [row],
        "Tags": tags(options, name),
        **extras(options),
        **vpc(options),
    }
    if options.network_isolation:
        request["EnableNetworkIsolation"] = True
    return Call("sagemaker", "create_endpoint_config", request)


def create(options: argparse.Namespace, name: str) -> list[Call]:
    """The component of the same name, and its scaling."""
    accelerators = options.copy_accelerators
    if accelerators is None:
        accelerators = 1 if all(map(is_gpu, instance_types(options.instance_type))) else 0
    needs: dict[str, Any] = {"MinMemoryRequiredInMb": options.copy_memory, "NumberOfCpuCoresRequired": 1}
    if accelerators:
        needs["NumberOfAcceleratorDevicesRequired"] = accelerators
    request = {
        "InferenceComponentName": name,
        "EndpointName": name,
        "VariantName": VARIANT,
        "Specification": {
            "ModelName": name,
            "StartupParameters": {"ContainerStartupHealthCheckTimeoutInSeconds": options.startup_timeout},
            "ComputeResourceRequirements": needs,
        },
        "RuntimeConfig": {"CopyCount": 1},
        "Tags": tags(options, name),
    }
    return [Call("sagemaker", "create_inference_component", request), *scaling.of_component(options, name)]
