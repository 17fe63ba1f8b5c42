"""`launch.py policy VERB`: the IAM policy that the user of one verb needs, and no more; of files in scripts/iam/."""

import argparse
from collections.abc import Sequence
from string import Template

from launching.calls import ROOT, Aws, Call

HELP = "print the IAM policy that a verb needs, or that the execution role needs"
FOLDER = ROOT / "scripts" / "iam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    add("of", choices=names, metavar="VERB", help=f"one of {', '.join(names)}")
    add("--account", default="*", metavar="ID", help="default: any, to be narrowed by you")
    add("--bucket", default="YOUR-BUCKET", metavar="NAME", help="where data and models are")
    add("--role", default="*", metavar="ARN", help="the execution role, which the verb hands over")


def plan(options: argparse.Namespace, aws: Aws) -> list[Call]:
    """AWS is not asked."""
    return []


def run(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> None:
    values = {
        "ACCOUNT": options.account,
        "REGION": options.region or "*",
        "BUCKET": options.bucket,
        "ROLE": options.role if options.role != "*" else f"arn:aws:iam::{options.account}:role/*",
    }
    text = (FOLDER / f"{options.of}.json").read_text(encoding="utf-8")
    print(Template(text).substitute(values), end="")
