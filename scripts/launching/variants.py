"""Second step of `deploy` and `update`: the models behind an endpoint, their hosts and shares of the traffic."""

import argparse
from dataclasses import dataclass
from typing import Any

from launching.calls import Call, LaunchError
from launching.models import MANY, create_model, cuda_of, given_source, host_ami, look_at
from launching.request import (
    add_instance_type,
    assignment,
    at_least_one,
    check_price,
    instance_types,
    split_uri,
    tags,
)

VARIANT = "AllTraffic"
CUT_CHARACTERS = 63 - len("-20261231-235959")
"""Of the endpoint's name in those of its later models and configurations, which also have the time."""
SERVERLESS_MEMORY_MB = tuple(range(1024, 6145, 1024))
SERVERLESS_MAX_CONCURRENCY = 200
# One request may be a gigabyte and take an hour there.
ASYNC_SETTINGS = {"MAX_BODY_MB": "1024", "REQUEST_TIMEOUT_SECONDS": "3600"}


@dataclass(frozen=True)
class Variant:
    """One model behind an endpoint."""

    name: str
    source: str
    """A training job, an s3://.../model.tar.gz, or what `models.PACKAGE` and `models.MANY` begin."""
    weight: float = 1
    is_shadow: bool = False


def add_hosting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_instance_type(parser)
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
        help="the host's image and so its driver; default: by instance and --cuda",
    )
    add(
        "--instance-usd-per-hour",
        type=float,
        metavar="PRICE",
        help="of one instance, for the metric of the costs",
    )
    add("--data-capture", metavar="S3_URI", help="keep requests and answers there")
    add("--data-capture-percent", type=int, default=100)
    add(
        "--enhanced-metrics",
        type=int,
        metavar="SECONDS",
        choices=(10, 30, 60, 120, 180, 240, 300),
        help="AWS's own metrics of each instance and container, so often: 10, 30, 60, 120, 180, 240 or 300",
    )
    add("--core-dumps", metavar="S3_URI", help="where the memory of a container that crashes is kept")
    add(
        "--ssm-access",
        action="store_true",
        help="a shell in the container by AWS Systems Manager, for accounts that AWS support has let in; AWS then "
        "takes a day to patch and replace a faulty instance",
    )
    add("--serverless", action="store_true", help="no instance of its own, no GPU, nothing to pay when idle")
    add("--serverless-memory", type=int, default=4096, metavar="MB", help="1024 to 6144")
    add("--serverless-concurrency", type=int, default=5, metavar="N", help="requests at once, 1 to 200")
    add(
        "--async", dest="asynchronous", metavar="S3_URI", help="requests are S3 objects, the answers go there"
    )
    add("--notify-success", metavar="SNS_ARN", help="with --async")
    add("--notify-error", metavar="SNS_ARN", help="with --async")
    add("--concurrency", type=int, metavar="N", help="with --async: requests at once an instance; default: 8")


def add_variants(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=MODEL[,WEIGHT]",
        help="several models share the traffic; MODEL is a training job or an s3://.../model.tar.gz",
    )
    add("--shadow", metavar="NAME=MODEL", help="gets a copy of each request; its answers are thrown away")


def read_variants(options: argparse.Namespace) -> list[Variant]:
    """What to serve. Raises LaunchError where it contradicts itself."""
    source = given_source(options)
    if many := getattr(options, "models", None):  # deploy alone has it
        bucket, prefix = split_uri(many)
        source = f"{MANY}s3://{bucket}/{prefix}"
    if bool(source) == bool(options.variant):
        raise LaunchError(
            "give either --job, --model-data, --package or (deploy alone) --models, or --variant for each of several"
        )
    variants = [Variant(VARIANT, source)] if source else []
    for text in options.variant:
        name, value = assignment(text, "--variant")
        model, _, weight = value.partition(",")
        try:
            variants.append(Variant(name, model, float(weight or 1)))
        except ValueError:
            raise LaunchError(f"--variant {text!r}: the weight {weight!r} is no number") from None
    if options.shadow:
        name, value = assignment(options.shadow, "--shadow")
        variants.append(Variant(name, value, is_shadow=True))
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise LaunchError(f"each variant needs a name of its own, not {', '.join(names)}")
    if options.shadow and len(variants) != 2:
        raise LaunchError("--shadow goes with exactly one other model")
    return variants


def check_hosting(options: argparse.Namespace, variants: list[Variant]) -> None:
    """What SageMaker does not offer together. Raises LaunchError."""
    at_least_one(options.instance_count, "--instance-count")
    check_price(options)
    if options.serverless and options.asynchronous:
        raise LaunchError("--serverless and --async exclude each other")
    if options.serverless:
        refused = {
            "--data-capture": options.data_capture,
            "--subnet": options.subnet,
            "--network-isolation": options.network_isolation,
            "--shadow": options.shadow,
            "--variant": options.variant,
            "--core-dumps": options.core_dumps,
            "--ssm-access": options.ssm_access,
        }
        for option, given in refused.items():
            if given:
                raise LaunchError(f"a serverless endpoint has no {option}")
        if options.serverless_memory not in SERVERLESS_MEMORY_MB:
            raise LaunchError(
                f"--serverless-memory {options.serverless_memory}: one of {', '.join(map(str, SERVERLESS_MEMORY_MB))}"
            )
        if not 1 <= options.serverless_concurrency <= SERVERLESS_MAX_CONCURRENCY:
            raise LaunchError(f"--serverless-concurrency {options.serverless_concurrency}: from 1 to 200")
    if any(variant.source.startswith(MANY) for variant in variants):
        refused = {
            "--serverless": options.serverless,
            "--async": options.asynchronous,
            "--shadow": options.shadow,
            "--inference-component": getattr(options, "inference_component", None),
        }
        for option, given in refused.items():
            if given:
                raise LaunchError(f"a multi-model endpoint (--models) has no {option}")
    if options.asynchronous and len(variants) > 1:
        raise LaunchError("an asynchronous endpoint has one model")
    for option in ("notify_success", "notify_error", "concurrency"):
        if getattr(options, option) and not options.asynchronous:
            raise LaunchError(f"--{option.replace('_', '-')} is for --async")
    if not 0 <= options.data_capture_percent <= 100:
        raise LaunchError(f"--data-capture-percent {options.data_capture_percent}: from 0 to 100")


def models(options: argparse.Namespace, endpoint: str, config: str, variants: list[Variant]) -> list[Call]:
    """The looks at training jobs, then one Model for each variant."""
    looks = [call for variant in variants for call in look_at(variant.source)]
    made = []
    for variant in variants:
        # SageMaker tells a container neither: they are the dimensions of its metrics.
        environment = {"ENDPOINT_NAME": endpoint, "VARIANT_NAME": variant.name}
        if options.instance_usd_per_hour is not None and not options.serverless:
            environment["INSTANCE_USD_PER_HOUR"] = f"{options.instance_usd_per_hour:g}"
        if options.asynchronous:
            environment |= ASYNC_SETTINGS
        name = model_name(config, variant)
        made.append(create_model(options, name, variant.source, environment, endpoint))
    return [*looks, *made]


def model_name(config: str, variant: Variant) -> str:
    return config if variant.name == VARIANT else f"{config}-{variant.name}"


def create_config(options: argparse.Namespace, endpoint: str, config: str, variants: list[Variant]) -> Call:
    rows = [(variant, _production_variant(options, config, variant)) for variant in variants]
    request: dict[str, Any] = {
        "EndpointConfigName": config,
        "ProductionVariants": [row for variant, row in rows if not variant.is_shadow],
        "Tags": tags(options, endpoint),
    }
    if shadows := [row for variant, row in rows if variant.is_shadow]:
        request["ShadowProductionVariants"] = shadows
    if options.asynchronous:
        request["AsyncInferenceConfig"] = _async_config(options)
    return Call("sagemaker", "create_endpoint_config", request | extras(options))


def extras(options: argparse.Namespace) -> dict[str, Any]:
    """What any configuration may have: the capture of data, the key of its volumes, more metrics of AWS's own."""
    asked: dict[str, Any] = {}
    if options.data_capture:
        asked["DataCaptureConfig"] = _data_capture(options)
    if options.volume_kms_key:
        asked["KmsKeyId"] = options.volume_kms_key
    if options.enhanced_metrics:
        asked["MetricsConfig"] = {
            "EnableEnhancedMetrics": True,
            "MetricPublishFrequencyInSeconds": options.enhanced_metrics,
        }
    return asked


def _production_variant(options: argparse.Namespace, config: str, variant: Variant) -> dict[str, Any]:
    row: dict[str, Any] = {"VariantName": variant.name, "ModelName": model_name(config, variant)}
    if options.serverless:
        row["ServerlessConfig"] = {
            "MemorySizeInMB": options.serverless_memory,
            "MaxConcurrency": options.serverless_concurrency,
        }
        return row
    row |= host(options)
    if options.variant or options.shadow:
        row["InitialVariantWeight"] = variant.weight
    return row


def host(options: argparse.Namespace) -> dict[str, Any]:
    """The instances of a variant: their types, their driver, how long they may take, who gets the next request.

    Raises LaunchError where the types need different drivers.
    """
    types = instance_types(options.instance_type)
    row: dict[str, Any] = {
        "InitialInstanceCount": options.instance_count,
        "ContainerStartupHealthCheckTimeoutInSeconds": options.startup_timeout,
        # Pictures cost unlike: the next one goes to the instance with the fewest under way.
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    if len(types) == 1:
        row["InstanceType"] = types[0]
    else:
        row["InstancePools"] = [
            {"InstanceType": name, "Priority": place} for place, name in enumerate(types, 1)
        ]
    if ami := _host_image(options, types):
        row["InferenceAmiVersion"] = ami
    if options.core_dumps:
        split_uri(options.core_dumps)
        key = {"KmsKeyId": options.kms_key} if options.kms_key else {}
        row["CoreDumpConfig"] = {"DestinationS3Uri": options.core_dumps, **key}
    if options.ssm_access:
        row["EnableSSMAccess"] = True
    return row


def _host_image(options: argparse.Namespace, types: list[str]) -> str | None:
    image = options.image or getattr(options, "package", None)
    amis = {name: host_ami(name, options.cuda or cuda_of(image, name)) for name in types}
    if options.inference_ami:
        return str(options.inference_ami)
    if len(set(amis.values())) > 1:
        needs = ", ".join(f"{name} {ami or 'none'}" for name, ami in amis.items())
        raise LaunchError(
            f"--instance-type {options.instance_type}: all have one host image, and theirs differ ({needs}): "
            "name one that suits all with --inference-ami, or take types that go together"
        )
    return amis[types[0]]


def _async_config(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.asynchronous.rstrip("/")
    output: dict[str, Any] = {"S3OutputPath": folder, "S3FailurePath": f"{folder}/failures"}
    topics = {"SuccessTopic": options.notify_success, "ErrorTopic": options.notify_error}
    if topics := {key: topic for key, topic in topics.items() if topic}:
        output["NotificationConfig"] = topics
    if options.kms_key:
        output["KmsKeyId"] = options.kms_key
    return {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": options.concurrency or 8},
        "OutputConfig": output,
    }


def _data_capture(options: argparse.Namespace) -> dict[str, Any]:
    capture: dict[str, Any] = {
        "EnableCapture": True,
        "InitialSamplingPercentage": options.data_capture_percent,
        "DestinationS3Uri": options.data_capture,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    if options.kms_key:
        capture["KmsKeyId"] = options.kms_key
    return capture
