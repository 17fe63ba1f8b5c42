"""What jobs and endpoints have in common in their requests: tags, network, keys, environment."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from launching.calls import LaunchError

OWNER_TAG = "launched-as"
"""Its value is the name that was launched; `delete` removes only what carries it."""

MAXIMUM_CHOICES = 5  # of instance types; boto3's description


def add_tags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="on all it makes; may be repeated"
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--subnet", action="append", default=[], metavar="ID", help="run in this VPC subnet; may be repeated")
    add("--security-group", action="append", default=[], metavar="ID", help="with --subnet; may be repeated")
    add("--network-isolation", action="store_true", help="the container gets no network and no credentials")
    add("--kms-key", metavar="ID", help="encrypts what is written to S3")
    add("--volume-kms-key", metavar="ID", help="encrypts the instance's volume")


def tags(options: argparse.Namespace, name: str) -> list[dict[str, str]]:
    """The user's, and those by which `cost` and `delete` find what belongs together."""
    pairs = {"project": options.project, OWNER_TAG: name}
    pairs |= dict(assignment(text, "--tag") for text in options.tag)
    return [{"Key": key, "Value": value} for key, value in pairs.items()]


def owner_tag(name: str) -> list[dict[str, str]]:
    """For what takes no other: alarms, by which nobody counts costs."""
    return [{"Key": OWNER_TAG, "Value": name}]


def vpc(options: argparse.Namespace) -> dict[str, Any]:
    """`VpcConfig`, or nothing. Raises LaunchError for half of one."""
    if bool(options.subnet) != bool(options.security_group):
        raise LaunchError("--subnet and --security-group belong together")
    if not options.subnet:
        return {}
    return {"VpcConfig": {"Subnets": options.subnet, "SecurityGroupIds": options.security_group}}


def assignment(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise LaunchError(f"{option} {text!r} is not NAME=VALUE")
    return name, value


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    return dict(assignment(text, option) for text in texts)


def folder_uri(uri: str) -> str:
    """A prefix is a beginning, not a folder: `data/train` would bring `data/train-old` too."""
    return f"{uri.rstrip('/')}/"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket, and prefix that ends with a slash unless it is empty. Raises LaunchError."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
    if not match:
        raise LaunchError(f"{uri!r} is not of the form s3://BUCKET/PREFIX")
    prefix = (match[2] or "").strip("/")
    return match[1], f"{prefix}/" if prefix else ""


def at_least_one(value: int, option: str) -> None:
    if value < 1:
        raise LaunchError(f"{option} {value}: at least 1")


def add_instance_type(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance-type",
        default="ml.g5.xlarge",
        metavar="TYPE[,TYPE...]",
        help="of up to 5 AWS takes the first that it has (%(default)s)",
    )


def instance_types(text: str) -> list[str]:
    """One, or up to 5 in the order in which AWS tries them. Raises LaunchError."""
    types = text.split(",")
    if not all(types) or len(set(types)) < len(types) or len(types) > MAXIMUM_CHOICES:
        raise LaunchError(
            f"--instance-type {text!r}: one type, or up to {MAXIMUM_CHOICES} different ones with commas between"
        )
    return types


def check_price(options: argparse.Namespace) -> None:
    """Raises LaunchError where nobody knows beforehand whose price it will be."""
    if options.instance_usd_per_hour is not None and len(instance_types(options.instance_type)) > 1:
        raise LaunchError("--instance-usd-per-hour is the price of one --instance-type, not of several")
