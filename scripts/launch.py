"""From this machine to SageMaker: upload pictures, train on them, deploy the model, ask it, delete it.

Each verb is a file `launching/VERB.py` beside this one. Nothing is kept here: keys come from where
boto3 finds them, roles from the command line, images from the digests that `make push` wrote.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from launching.calls import Aws, print_calls
from launching.errors import FAULTS, said
from launching.limits import check_limits

VERBS = (
    *("upload", "download", "train", "tune", "deploy", "update", "shift", "transform", "invoke"),
    *("process", "register", "pipeline", "status", "logs", "stop", "delete", "cost", "policy"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    try:
        run(module(options.verb), options)
    except FAULTS as error:
        sys.exit(f"launch: {said(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


def module(verb: str) -> ModuleType:
    return importlib.import_module(f"launching.{verb}")


def run(verb: ModuleType, options: argparse.Namespace) -> None:
    aws = Aws(options.region)
    calls = verb.plan(options, aws)
    check_limits(calls, aws.known_region)
    if options.dry_run:
        print_calls(calls)
    else:
        verb.run(options, calls, aws)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    arguments = sys.argv[1:] if arguments is None else arguments
    asked = [word for word in arguments[:1] if word in VERBS]
    for name in asked or VERBS:  # all of them only for the list of --help
        verb = module(name)
        added = verbs.add_parser(name, help=verb.HELP, description=verb.HELP)
        verb.add_arguments(added)
        added.add_argument(
            "--region", default=os.environ.get("AWS_REGION") or None, help="default: your AWS profile's"
        )
        added.add_argument(
            "--dry-run",
            action="store_true",
            help="print the calls as JSON and make none that changes anything",
        )
    options = parser.parse_args(arguments)
    options.words = list(arguments)  # for a verb that tells how to go on with it
    return options


if __name__ == "__main__":
    main()
