"""Before the first call of any verb: its arguments against the limits of the service.

boto3 itself checks names, types and minimums, but sends what is too long, too many or misnamed, and what
AWS refuses late may by then have left a model and a configuration behind.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from botocore import xform_name
from botocore.exceptions import ParamValidationError
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import validate_parameters

from launching.calls import Call, LaunchError, descriptions
from launching.inner import requests_of

INSTANCE_TYPES = {
    "TrainingInstanceType": "training",
    "ProductionVariantInstanceType": "endpoints",
    "TransformInstanceType": "batch transform",
    "ProcessingInstanceType": "processing",
}
"""The shapes of the service's description that list them, and what they are of."""
ARM = re.compile(r"ml\.([cmrt]\d+g|p6e-gb)")
UNITS = {"string": " characters", "list": " entries", "map": " entries"}


def check_limits(calls: Sequence[Call], region: str | None) -> None:
    """Hold the arguments against the service's description that boto3 carries. Raises LaunchError."""
    for call in calls:
        _check(call, region, "")
        for step, request in requests_of(call):
            _check(request, region, f"step {step}: ")


def _check(call: Call, region: str | None, where: str) -> None:
    operation = _operation(call.client, call.method)
    if operation is None:  # upload_file is boto3's own, made of several operations
        return
    try:
        # boto3 makes the tokens against doing a thing twice itself.
        tokens = dict.fromkeys(map(str, operation.idempotent_members), "0" * 32)
        validate_parameters(tokens | call.arguments, operation.input_shape)
    except ParamValidationError as error:
        raise LaunchError(f"{where}{operation.name}: {' '.join(str(error).split())}") from None
    for fault in _faults(call.arguments, operation.input_shape, ""):
        raise LaunchError(f"{where}{operation.name}: {fault}")
    for image in _images(call.arguments):
        _check_region(image, region)


def _check_region(image: str, region: str | None) -> None:
    """SageMaker pulls only from the ECR of its own region, and says so after minutes."""
    there = re.match(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com", image)
    if there and region and there[1] != region:
        raise LaunchError(
            f"the image is in {there[1]} and the calls go to {region}: give --region {there[1]}, "
            f"or push it there too: make push AWS_REGION={region}"
        )


def _images(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("Image", "TrainingImage", "ImageUri") and isinstance(member, str):
                yield member
            else:
                yield from _images(member)
    elif isinstance(value, list):
        for item in value:
            yield from _images(item)


@cache
def _service(client: str) -> ServiceModel:
    return ServiceModel(descriptions().load_service_model(client, "service-2"), client)


def _operation(client: str, method: str) -> OperationModel | None:
    service = _service(client)
    names = {xform_name(name): name for name in service.operation_names}
    return service.operation_model(names[method]) if method in names else None


def _faults(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """What in `value` breaks the maximums and patterns of `shape`, in words."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _faults(member, shape.members[name], f"{where}.{name}".lstrip("."))
        return
    if shape.type_name in (
        "blob",
        "timestamp",
        "boolean",
    ):  # boto3's figure for a body is older than AWS's limit
        return
    maximum = shape.metadata.get("max")
    size = value if isinstance(value, int | float) else len(value)
    if maximum is not None and size > maximum:
        unit = UNITS.get(shape.type_name, "")
        yield (
            f"{where} has {size}{unit}, the limit is {maximum}"
            if unit
            else f"{where} is {size}, above {maximum}"
        )
    if shape.type_name == "list":
        for index, item in enumerate(value):
            yield from _faults(item, shape.member, f"{where}[{index}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _faults(key, shape.key, f"{where} name {key!r}")
            yield from _faults(item, shape.value, f"{where}[{key!r}]")
    elif shape.type_name == "string":
        if not _matches(shape.metadata.get("pattern"), value):
            yield f"{where}: {value!r} is not of the form {shape.metadata['pattern']}"
        if shape.name in INSTANCE_TYPES:
            yield from _no_such_instance(value, shape, where)
        _doubt(value, shape, where)


def _no_such_instance(value: str, shape: Shape, where: str) -> Iterator[str]:
    """An instance type that there is, but not for this; or one that does not run our images."""
    if ARM.match(value):
        yield f"{where}: {value} has an Arm processor, and the images are for amd64: ml.c7i.xlarge, for example, has"
    enums = {_service("sagemaker").shape_for(name): used for name, used in INSTANCE_TYPES.items()}
    elsewhere = [used for known, used in enums.items() if value in known.enum]
    if elsewhere and INSTANCE_TYPES[shape.name] not in elsewhere:
        yield f"{where}: {value} is there for {', '.join(elsewhere)}, not for {INSTANCE_TYPES[shape.name]}"


def _doubt(value: str, shape: Shape, where: str) -> None:
    """A word that this boto3 does not know may be newer than it is: say so, and let AWS decide."""
    known = shape.metadata.get("enum", ())
    if known and value not in known:
        near = get_close_matches(value, known, 3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        print(f"{where}: this boto3 knows no {value!r}{meant}", file=sys.stderr)


def _matches(pattern: str | None, text: str) -> bool:
    try:
        return pattern is None or re.fullmatch(pattern, text) is not None
    except re.error:  # a few patterns use classes that Python's dialect has not
        return True
