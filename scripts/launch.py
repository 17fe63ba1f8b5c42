"""From this machine to SageMaker: upload pictures, train on them, deploy the model, ask it, delete it.

Each verb is a file `launch_VERB.py` beside this one. Nothing is kept here: keys come from where
boto3 finds them, roles from the command line, images from the digests that `make push` wrote.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

import launch_delete
import launch_deploy
import launch_invoke
import launch_train
import launch_upload
from launch_calls import Aws, LaunchError, check_limits, print_calls

VERBS = {
    "upload": launch_upload,
    "train": launch_train,
    "deploy": launch_deploy,
    "invoke": launch_invoke,
    "delete": launch_delete,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    verb = VERBS[options.verb]
    try:
        calls = verb.plan(options)
        check_limits(calls)
        if options.dry_run:
            print_calls(calls)
        else:
            verb.run(options, calls, Aws(options.region))
    except LaunchError as error:
        sys.exit(f"launch: {error}")
    except NoCredentialsError:
        sys.exit("launch: no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE")
    except NoRegionError:
        sys.exit("launch: no AWS region: give --region, or set AWS_REGION")
    except ClientError as error:
        reason = error.response["Error"]
        message = " ".join(reason["Message"].split())
        sys.exit(f"launch: AWS refused {error.operation_name}: {reason['Code']}: {message}")
    except (BotoCoreError, Boto3Error, OSError) as error:
        sys.exit(f"launch: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(VERBS))
    for name, verb in VERBS.items():
        added = verbs.add_parser(name, help=verb.HELP, description=verb.HELP)
        verb.add_arguments(added)
        added.add_argument(
            "--region", default=os.environ.get("AWS_REGION") or None, help="default: your AWS profile's"
        )
        added.add_argument("--dry-run", action="store_true", help="print the calls as JSON and make none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
