"""For `doctor.py`: what SageMaker says of a job or an endpoint, and what was set for its containers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from launching.calls import Aws, Call
from launching.kinds import COMPONENT, ENDPOINT, TRAINING
from launching.models import is_gpu

HOURS = 3
"""Of a job's time, or before now, that are looked at."""
LAG = timedelta(minutes=10)
"""Log events and metrics may come so much later."""


@dataclass(frozen=True)
class Container:
    """What publishes: a job's container, or one of a variant or of an inference component."""

    label: str
    """The variant's or the component's name; empty for a job."""
    has_gpu: bool
    role: str | None
    is_isolated: bool
    environment: Mapping[str, str]
    own_series: Mapping[str, str]
    """Dimensions of its figures, above METRICS_LEVEL=fleet."""

    @property
    def sink(self) -> str:
        return self.environment.get("METRICS_SINK", "emf").lower()

    @property
    def of(self) -> str:
        return f" of {self.label}" if self.label else ""

    @property
    def series(self) -> Mapping[str, str]:
        """Dimensions by which its figures are found."""
        if self.environment.get("METRICS_LEVEL", "").lower() != "fleet":
            return self.own_series
        phase = "serving" if self.label else "training"
        return {"Project": self.environment.get("METRICS_PROJECT") or "surface-normals", "Phase": phase}


@dataclass(frozen=True)
class Patient:
    """The job or endpoint."""

    name: str
    begin: datetime
    end: datetime
    """Of the time that is looked at."""
    containers: tuple[Container, ...]
    log_places: tuple[tuple[str, str], ...]
    """Log groups, each with how its streams' names begin."""

    @property
    def span(self) -> str:
        return f"from {self.begin:%Y-%m-%d %H:%M} to {self.end:%H:%M} UTC"


def describe_job(aws: Aws, name: str) -> Patient:
    """A training job, in the last hours of its own time."""
    job = aws(TRAINING.described(name))
    resources = job["ResourceConfig"]
    types = [resources.get("SelectedInstanceType") or resources.get("InstanceType", "")]
    types += [group["InstanceType"] for group in resources.get("InstanceGroups", ())]
    container = Container(
        label="",
        has_gpu=any(map(is_gpu, types)),
        role=job.get("RoleArn"),
        is_isolated=job.get("EnableNetworkIsolation", False),
        environment=job.get("Environment") or {},
        own_series={"JobName": name},
    )
    begin = job.get("TrainingStartTime") or job["CreationTime"]
    return _patient(name, begin, job.get("TrainingEndTime"), (container,), (TRAINING.log_place(name),))


def describe_endpoint(aws: Aws, name: str) -> Patient:
    """An endpoint with all its variants, or its inference components."""
    endpoint = aws(ENDPOINT.described(name))
    arguments = {"EndpointConfigName": endpoint["EndpointConfigName"]}
    config = aws(Call("sagemaker", "describe_endpoint_config", arguments))
    variants = [*config["ProductionVariants"], *config.get("ShadowProductionVariants", ())]
    containers = [_of_variant(aws, name, variant) for variant in variants if "ModelName" in variant]
    places = [ENDPOINT.log_place(name)]
    if len(containers) < len(variants):
        with_gpu = {variant["VariantName"] for variant in variants if _has_gpu(variant)}
        listed = Call("sagemaker", "list_inference_components", {"EndpointNameEquals": name})
        for row in aws.pages(listed, "InferenceComponents"):
            containers.append(_of_component(aws, name, row["InferenceComponentName"], config, with_gpu))
            places.append(COMPONENT.log_place(row["InferenceComponentName"]))
        places = places[1:]
    return _patient(name, endpoint["CreationTime"], None, tuple(containers), tuple(places))


def _patient(name: str, begin: datetime, end: datetime | None, *rest: Any) -> Patient:
    now = datetime.now(timezone.utc)
    end = min(now, end.astimezone(timezone.utc) + LAG) if end else now
    return Patient(name, max(begin.astimezone(timezone.utc), end - timedelta(hours=HOURS)), end, *rest)


def _has_gpu(variant: Mapping[str, Any]) -> bool:
    types = [
        variant.get("InstanceType", ""),
        *(pool["InstanceType"] for pool in variant.get("InstancePools", ())),
    ]
    return any(map(is_gpu, types))


def _of_variant(aws: Aws, endpoint: str, variant: Mapping[str, Any]) -> Container:
    model = aws(Call("sagemaker", "describe_model", {"ModelName": variant["ModelName"]}))
    name = variant["VariantName"]
    return Container(
        label=name,
        has_gpu=_has_gpu(variant),
        role=model.get("ExecutionRoleArn"),
        is_isolated=model.get("EnableNetworkIsolation", False),
        environment=_environment(model),
        own_series={"Endpoint": endpoint, "Variant": name},
    )


def _of_component(
    aws: Aws, endpoint: str, name: str, config: Mapping[str, Any], with_gpu: set[str]
) -> Container:
    component = aws(COMPONENT.described(name))
    specification = component.get("Specification") or {}
    owner: Mapping[str, Any] = config
    environment = (specification.get("Container") or {}).get("Environment") or {}
    if model_name := specification.get("ModelName"):
        owner = aws(Call("sagemaker", "describe_model", {"ModelName": model_name}))
        environment = _environment(owner)
    variant = component.get("VariantName", "")
    needs = specification.get("ComputeResourceRequirements") or {}
    return Container(
        label=name,
        has_gpu=variant in with_gpu and bool(needs.get("NumberOfAcceleratorDevicesRequired")),
        role=owner.get("ExecutionRoleArn"),
        is_isolated=owner.get("EnableNetworkIsolation", False),
        environment=environment,
        own_series={"Endpoint": endpoint, "Variant": variant},
    )


def _environment(model: Mapping[str, Any]) -> dict[str, str]:
    """Of the model's container, or of the first one of a chain."""
    containers = (model.get("PrimaryContainer") or {}, *(model.get("Containers") or ()))
    return next((container["Environment"] for container in containers if container.get("Environment")), {})
