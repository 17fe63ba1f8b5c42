"""A registry group's newest approved model, for whoever makes a Model of it, and the wait for an approval."""

import argparse
import shlex
from collections.abc import Sequence

from botocore.exceptions import BotoCoreError, ClientError

from launching.calls import Aws, Call, LaunchError
from launching.errors import said
from launching.watch import wait

NEWEST_FIRST = {"SortBy": "CreationTime", "SortOrder": "Descending"}


def add_when_approved(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--when-approved",
        action="store_true",
        help="with --package: first wait until somebody has approved the group's newest model",
    )


def approved(group: str) -> Call:
    """The look at a group's approved packages, the newest first."""
    request = {"ModelPackageGroupName": group, "ModelApprovalStatus": "Approved", **NEWEST_FIRST}
    return Call("sagemaker", "list_model_packages", request)


def newest(look: Call, aws: Aws) -> str:
    """The newest package's ARN. Raises LaunchError where none is approved."""
    group = look.arguments["ModelPackageGroupName"]
    packages = aws.pages(look, "ModelPackageSummaryList")
    if not packages:
        raise LaunchError(
            f"no model of {group} is approved: approve one in the console, or by {approval('ARN')}; "
            "--when-approved waits for it"
        )
    return str(packages[0]["ModelPackageArn"])


def approval(package: str) -> str:
    """The command that approves a package, given by its ARN."""
    return (
        f"aws sagemaker update-model-package --model-approval-status Approved --model-package-arn {package}"
    )


def look_at_newest(options: argparse.Namespace) -> list[Call]:
    """The look that --when-approved makes until it sees the approval; without it none.

    Raises LaunchError where there is nothing to approve, or nobody to wait.
    """
    if not options.when_approved:
        return []
    if not options.package:
        raise LaunchError("--when-approved is for --package: other models need no approval")
    if not options.wait:
        raise LaunchError("--no-wait: --when-approved is to wait for the approval")
    request = {"ModelPackageGroupName": options.package, **NEWEST_FIRST, "MaxResults": 1}
    return [Call("sagemaker", "list_model_packages", request)]


def wait_for_approval(options: argparse.Namespace, calls: Sequence[Call], aws: Aws) -> Sequence[Call]:
    """With --when-approved make the first call until it tells of the approval; returns the calls that are left.

    Raises LaunchError when the newest model is rejected, and when the waiting is cut, with the way back.
    """
    if not options.when_approved:
        return calls
    look, *rest = calls
    try:
        wait(lambda: _newest_status(look, aws), options.poll_seconds)
    except (ClientError, BotoCoreError, KeyboardInterrupt) as error:
        raise LaunchError(
            f"{said(error)}\nnothing is deployed. To wait again: launch.py {shlex.join(map(str, options.words))}"
        ) from None
    return rest


def _newest_status(look: Call, aws: Aws) -> tuple[list[str], bool]:
    packages = aws(look)["ModelPackageSummaryList"]
    if not packages:
        return [f"{look.arguments['ModelPackageGroupName']} has no model yet"], False
    package, status = packages[0]["ModelPackageArn"], packages[0].get("ModelApprovalStatus")
    if status == "Rejected":
        raise LaunchError(f"{package} is rejected; nothing is deployed")
    if status == "Approved":
        return [f"{package} is approved"], True
    return [f"{package} waits for approval: {approval(package)}"], False
