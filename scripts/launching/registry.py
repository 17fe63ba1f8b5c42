"""The newest approved model of a registry group, for whoever makes a Model of it."""

from launching.calls import Aws, Call, LaunchError


def approved(group: str) -> Call:
    """The look at a group's approved packages, the newest first."""
    request = {
        "ModelPackageGroupName": group,
        "ModelApprovalStatus": "Approved",
        "SortBy": "CreationTime",
        "SortOrder": "Descending",
    }
    return Call("sagemaker", "list_model_packages", request)


def newest(look: Call, aws: Aws) -> str:
    """The newest package's ARN. Raises LaunchError where none is approved."""
    group = look.arguments["ModelPackageGroupName"]
    packages = aws.pages(look, "ModelPackageSummaryList")
    if not packages:
        raise LaunchError(
            f"no model of {group} is approved: approve one in the console, or by aws sagemaker "
            "update-model-package --model-approval-status Approved --model-package-arn ARN"
        )
    return str(packages[0]["ModelPackageArn"])
