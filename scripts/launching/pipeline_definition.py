"""`pipeline` as SageMaker Pipelines' own JSON: check, train, evaluate, condition, register.

A pipeline ends with a model that waits for approval, as it has no step that waits for a human, or makes an endpoint;
`deploy --package GROUP --when-approved` does both.
"""

from typing import Any

ERROR_PATH = "regression_metrics.mean_angular_error.value"


def definition(
    *,
    check: dict[str, Any],
    training: dict[str, Any],
    evaluate: dict[str, Any],
    package: dict[str, Any],
    data: str,
    validation: str,
    maximum_error_degrees: float,
) -> dict[str, Any]:
    """The steps, given the requests that they make; places that change from run to run are parameters."""
    _put(check, "data", {"Get": "Parameters.Data"})
    for channel in training["InputDataConfig"]:
        if channel["ChannelName"] in ("train", "validation"):
            parameter = "Data" if channel["ChannelName"] == "train" else "Validation"
            channel["DataSource"]["S3DataSource"]["S3Uri"] = {"Get": f"Parameters.{parameter}"}
    model = {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    _put(evaluate, "data", {"Get": "Parameters.Validation"})
    _put(evaluate, "model", model)
    _own_folder(check["ProcessingOutputConfig"]["Outputs"][0]["S3Output"])
    _own_folder(evaluate["ProcessingOutputConfig"]["Outputs"][0]["S3Output"])
    if "CheckpointConfig" in training:
        _own_folder(training["CheckpointConfig"])  # else a run would go on from the one before
    package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] = model
    package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"] = {
        "Std:Join": {
            "On": "/",
            "Values": [
                {"Get": "Steps.Evaluate.ProcessingOutputConfig.Outputs['output'].S3Output.S3Uri"},
                "evaluation.json",
            ],
        }
    }
    return {
        "Version": "2020-12-01",
        "Parameters": [
            {"Name": "Data", "Type": "String", "DefaultValue": data},
            {"Name": "Validation", "Type": "String", "DefaultValue": validation},
            {"Name": "MaximumError", "Type": "Float", "DefaultValue": maximum_error_degrees},
        ],
        "PipelineExperimentConfig": {
            "ExperimentName": {"Get": "Execution.PipelineName"},
            "TrialName": {"Get": "Execution.PipelineExecutionId"},
        },
        "Steps": [
            {"Name": "Check", "Type": "Processing", "Arguments": check},
            {"Name": "Train", "Type": "Training", "Arguments": training, "DependsOn": ["Check"]},
            {
                "Name": "Evaluate",
                "Type": "Processing",
                "Arguments": evaluate,
                "PropertyFiles": [
                    {
                        "PropertyFileName": "Evaluation",
                        "OutputName": "output",
                        "FilePath": "evaluation.json",
                    }
                ],
            },
            {
                "Name": "GoodEnough",
                "Type": "Condition",
                "Arguments": {
                    "Conditions": [
                        {
                            "Type": "LessThanOrEqualTo",
                            "LeftValue": {
                                "Std:JsonGet": {
                                    "PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Evaluation"},
                                    "Path": ERROR_PATH,
                                }
                            },
                            "RightValue": {"Get": "Parameters.MaximumError"},
                        }
                    ],
                    "IfSteps": [{"Name": "Register", "Type": "RegisterModel", "Arguments": package}],
                    "ElseSteps": [
                        {
                            "Name": "TooManyErrors",
                            "Type": "Fail",
                            "Arguments": {
                                "ErrorMessage": "the mean angular error on the validation data is above MaximumError"
                            },
                        }
                    ],
                },
            },
        ],
    }


def _own_folder(place: dict[str, Any]) -> None:
    """Each run writes below its own name."""
    values = [place["S3Uri"], {"Get": "Execution.PipelineExecutionId"}]
    place["S3Uri"] = {"Std:Join": {"On": "/", "Values": values}}


def _put(job: dict[str, Any], name: str, place: Any) -> None:
    for row in job["ProcessingInputs"]:
        if row["InputName"] == name:
            row["S3Input"]["S3Uri"] = place
