"""`pipeline --step-functions`: the same steps as a Step Functions definition, which also waits for the approval and
then for the endpoint."""

import copy
from typing import Any

from launching.request import OWNER_TAG

APPROVAL_POLL_SECONDS = 300
ENDPOINT_POLL_SECONDS = 60
APPROVAL_STATES = ("WaitForApproval", "LookAtApproval", "Approved")
RUN = "$$.Execution.Name"
"""Each run's own name, which begins those of its jobs."""


def definition(
    *,
    check: dict[str, Any],
    training: dict[str, Any],
    evaluate: dict[str, Any],
    package: dict[str, Any],
    bucket: str,
    prefix: str,
    maximum_error_degrees: float,
    model: dict[str, Any],
    variant: dict[str, Any],
    volume_key: str | None,
    project: str,
) -> dict[str, Any]:
    """Amazon States Language. `bucket`, `prefix`: below them each run has a folder of its own.

    `model`, `variant`: members of the endpoint's Model and of its one variant; `delete` knows the endpoint by its name,
    the run's with -endpoint.
    """
    check, training, evaluate, package = map(copy.deepcopy, (check, training, evaluate, package))
    evaluation_key = f"States.Format('{prefix}{{}}/evaluation/evaluation.json', {RUN})"
    _output(check, f"States.Format('s3://{bucket}/{prefix}{{}}/check', {RUN})")
    _output(evaluate, f"States.Format('s3://{bucket}/{prefix}{{}}/evaluation', {RUN})")
    if checkpoints := training.get("CheckpointConfig"):  # else a run would go on from the one before
        del checkpoints["S3Uri"]
        checkpoints["S3Uri.$"] = f"States.Format('s3://{bucket}/{prefix}{{}}/checkpoints', {RUN})"
    for row in evaluate["ProcessingInputs"]:
        if row["InputName"] == "model":
            row["S3Input"]["S3Uri.$"] = "$.Training.ModelArtifacts.S3ModelArtifacts"
            del row["S3Input"]["S3Uri"]
    container = package["InferenceSpecification"]["Containers"][0]
    container["ModelDataUrl.$"] = "$.Training.ModelArtifacts.S3ModelArtifacts"
    del container["ModelDataUrl"]
    statistics = package["ModelMetrics"]["ModelQuality"]["Statistics"]
    statistics["S3Uri.$"] = f"States.Format('s3://{bucket}/{prefix}{{}}/evaluation/evaluation.json', {RUN})"
    del statistics["S3Uri"]
    endpoint = f"States.Format('{{}}-endpoint', {RUN})"
    owned = {"Tags": [{"Key": "project", "Value": project}, {"Key": OWNER_TAG, "Value.$": endpoint}]}
    environment = {
        "METRICS_PROJECT": project,
        "ENDPOINT_NAME.$": endpoint,
        "VARIANT_NAME": variant["VariantName"],
    }
    states: dict[str, Any] = {
        "Check": _job("createProcessingJob.sync", check, "ProcessingJobName", "check", "Train"),
        "Train": _job("createTrainingJob.sync", training, "TrainingJobName", "train", "Evaluate")
        | {"ResultPath": "$.Training"},
        "Evaluate": _job("createProcessingJob.sync", evaluate, "ProcessingJobName", "evaluate", "ReadError"),
        "ReadError": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:s3:getObject",
            "Parameters": {"Bucket": bucket, "Key.$": evaluation_key},
            "ResultSelector": {"Evaluation.$": "States.StringToJson($.Body)"},
            "ResultPath": "$.Read",
            "Next": "GoodEnough",
        },
        "GoodEnough": {
            "Type": "Choice",
            "Choices": [
                {
                    "Variable": "$.Read.Evaluation.regression_metrics.mean_angular_error.value",
                    "NumericLessThanEquals": maximum_error_degrees,
                    "Next": "Register",
                }
            ],
            "Default": "TooManyErrors",
        },
        "TooManyErrors": {
            "Type": "Fail",
            "Error": "TooManyErrors",
            "Cause": f"the mean angular error is above {maximum_error_degrees:g} degrees",
        },
        "Register": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:sagemaker:createModelPackage",
            "Parameters": package,
            "ResultPath": "$.Package",
            "Next": "WaitForApproval",
        },
        "WaitForApproval": {"Type": "Wait", "Seconds": APPROVAL_POLL_SECONDS, "Next": "LookAtApproval"},
        "LookAtApproval": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:sagemaker:describeModelPackage",
            "Parameters": {"ModelPackageName.$": "$.Package.ModelPackageArn"},
            "ResultSelector": {"Status.$": "$.ModelApprovalStatus"},
            "ResultPath": "$.Approval",
            "Next": "Approved",
        },
        "Approved": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.Approval.Status", "StringEquals": "Approved", "Next": "CreateModel"},
                {"Variable": "$.Approval.Status", "StringEquals": "Rejected", "Next": "Rejected"},
            ],
            "Default": "WaitForApproval",
        },
        "Rejected": {"Type": "Succeed"},
        "CreateModel": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createModel",
            "Parameters": {
                "ModelName.$": endpoint,
                **model,
                **owned,
                "PrimaryContainer": {
                    "ModelPackageName.$": "$.Package.ModelPackageArn",
                    "Environment": environment,
                },
            },
            "ResultPath": None,
            "Next": "CreateEndpointConfig",
        },
        "CreateEndpointConfig": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createEndpointConfig",
            "Parameters": {
                "EndpointConfigName.$": endpoint,
                "ProductionVariants": [{**variant, "ModelName.$": endpoint}],
                **({"KmsKeyId": volume_key} if volume_key else {}),
                **owned,
            },
            "ResultPath": None,
            "Next": "CreateEndpoint",
        },
        "CreateEndpoint": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createEndpoint",
            "Parameters": {"EndpointName.$": endpoint, "EndpointConfigName.$": endpoint, **owned},
            "ResultPath": None,
            "Next": "WaitForEndpoint",
        },
        "WaitForEndpoint": {"Type": "Wait", "Seconds": ENDPOINT_POLL_SECONDS, "Next": "LookAtEndpoint"},
        "LookAtEndpoint": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:sagemaker:describeEndpoint",
            "Parameters": {"EndpointName.$": endpoint},
            "ResultSelector": {
                "Status.$": "$.EndpointStatus"
            },  # there is a FailureReason only with a failure
            "ResultPath": "$.Endpoint",
            "Next": "Serves",
        },
        "Serves": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.Endpoint.Status", "StringEquals": "InService", "Next": "Deployed"},
                {"Variable": "$.Endpoint.Status", "StringEquals": "Failed", "Next": "EndpointFailed"},
            ],
            "Default": "WaitForEndpoint",
        },
        "EndpointFailed": {
            "Type": "Fail",
            "Error": "EndpointFailed",
            "Cause": "the endpoint did not come up: `launch.py status` and `logs` of it tell why",
        },
        "Deployed": {"Type": "Succeed"},
    }
    return {
        "Comment": "check, train, evaluate, register, deploy when approved",
        "StartAt": "Check",
        "States": states,
    }


def _job(resource: str, request: dict[str, Any], name_key: str, suffix: str, then: str) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": f"arn:aws:states:::sagemaker:{resource}",
        "Parameters": {f"{name_key}.$": f"States.Format('{{}}-{suffix}', {RUN})", **request},
        "ResultPath": None,
        "Next": then,
    }


def _output(job: dict[str, Any], place: str) -> None:
    output = job["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]
    del output["S3Uri"]
    output["S3Uri.$"] = place
