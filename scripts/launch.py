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

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    UnauthorizedSSOTokenError,
)

from launching.calls import Aws, LaunchError, print_calls
from launching.cures import cure
from launching.limits import check_limits

VERBS = (
    *("upload", "download", "train", "tune", "deploy", "update", "shift", "transform", "invoke"),
    *("process", "register", "pipeline", "status", "logs", "stop", "delete", "cost", "policy"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    try:
        run(module(options.verb), options)
    except LaunchError as error:
        sys.exit(f"launch: {error}")
    except NoCredentialsError:
        sys.exit("launch: no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
    except NoRegionError:
        sys.exit("launch: no AWS region: give --region, or set AWS_REGION")
    except UnauthorizedSSOTokenError:
        sys.exit("launch: your AWS login has expired: run `aws sso login`")
    except ClientError as error:
        sys.exit(f"launch: {refusal(error)}")
    except (BotoCoreError, Boto3Error, OSError) as error:
        sys.exit(f"launch: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def module(verb: str) -> ModuleType:
    return importlib.import_module(f"launching.{verb}")


def run(verb: ModuleType, options: argparse.Namespace) -> None:
    aws = Aws(options.region)
    calls = verb.plan(options, aws)
    check_limits(calls, options.region)
    if options.dry_run:
        print_calls(calls)
    else:
        verb.run(options, calls, aws)


def refusal(error: ClientError) -> str:
    """AWS's own words in one line, and what likely cures it in another."""
    reason = error.response["Error"]
    text = f"{reason['Code']}: {' '.join(reason.get('Message', '').split())}"
    words = cure(text)
    return f"AWS refused {error.operation_name}: {text}" + (f"\nlikely cure: {words}" if words else "")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
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
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
