"""`launch.py policy VERB`: the IAM policy that the user of one verb needs, and no more; of files in scripts/iam/."""

import argparse
import json
from collections.abc import Sequence
from string import Template
from typing import Any

from launching.calls import ROOT, Aws, Call, LaunchError

HELP = "print the IAM policy that a verb, `make push` or a role needs; ROLE-trust is who may take the role"
FOLDER = ROOT / "scripts" / "iam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    add("of", choices=names, metavar="VERB", help=f"one of {', '.join(names)}")
    add("--account", default="*", metavar="ID", help="default: any, to be narrowed by you")
    add("--bucket", default="YOUR-BUCKET", metavar="NAME", help="where data and models are")
    add("--role", default="*", metavar="ARN", help="the execution role, which the verb hands over")
    add("--pipeline-role", default="*", metavar="ARN", help="of `pipeline`, if it has one of its own")
    add("--kms-key", metavar="ARN", help="with what a key of --kms-key or --volume-kms-key asks for")
    add("--delete-after", action="store_true", help="deploy: with what its --delete-after asks for")
    add("--vpc", action="store_true", help="execution-role: with what --subnet asks for")
    add("--ssm-access", action="store_true", help="execution-role: with what --ssm-access asks for")
    add(
        "--topic", metavar="ARN", help="execution-role: with what --notify-success and --notify-error ask for"
    )


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """AWS is not asked. Raises LaunchError."""
    if options.kms_key and not options.kms_key.startswith("arn:"):
        raise LaunchError(f"--kms-key {options.kms_key!r}: a policy names a key by its ARN")
    if options.kms_key and options.of.endswith("-trust"):
        raise LaunchError(f"--kms-key: {options.of} says who may take the role, not what it may do")
    if options.delete_after and options.of != "deploy":
        raise LaunchError("--delete-after: only deploy has that")
    for option in ("vpc", "topic", "ssm_access"):
        if getattr(options, option) and options.of != "execution-role":
            raise LaunchError(f"--{option.replace('_', '-')}: only the execution role needs that")
    return []


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    any_role = f"arn:aws:iam::{options.account}:role/*"
    values = {
        "ACCOUNT": options.account,
        "REGION": options.region or "*",
        "BUCKET": options.bucket,
        "ROLE": options.role if options.role != "*" else any_role,
        "PIPELINE_ROLE": options.pipeline_role if options.pipeline_role != "*" else any_role,
        "KMS_KEY": options.kms_key or "",
        "TOPIC": options.topic or "",
    }
    policy = _read(f"{options.of}.json", values)
    more = {"kms": options.kms_key, "vpc": options.vpc, "sns": options.topic, "ssm": options.ssm_access}
    for name, asked in more.items():
        policy["Statement"] += _read(f"options/{name}.json", values) if asked else []
    policy["Statement"] += _read("delete.json", values)["Statement"] if options.delete_after else []
    print(json.dumps(policy, indent=2))


def _read(name: str, values: dict[str, str]) -> Any:
    return json.loads(Template((FOLDER / name).read_text(encoding="utf-8")).substitute(values))
