"""What `process` and `pipeline` share: the train image as a Processing job that runs one of our scripts.

The scripts are not in the image: a job gets its own from S3, beside its data.
"""

import argparse
from typing import Any

from launching.calls import ROOT, Call
from launching.request import folder_uri, split_uri, vpc

BASE = "/opt/ml/processing"
CODE = f"{BASE}/code"
SCRIPTS = {"check": "check_dataset.py", "evaluate": "evaluate.py", "convert": "convert_dataset.py"}


def upload_code(task: str, code: str) -> Call:
    """The task's script to the S3 folder `code`."""
    bucket, prefix = split_uri(code)
    body = (ROOT / "scripts" / SCRIPTS[task]).read_bytes()
    return Call("s3", "put_object", {"Bucket": bucket, "Key": f"{prefix}{SCRIPTS[task]}", "Body": body})


def job(
    task: str,
    arguments: list[str],
    *,
    image: str,
    role: str,
    code: str,
    inputs: dict[str, Any],
    output: Any,
    resources: dict[str, Any],
    max_runtime_seconds: int = 86_400,
) -> dict[str, Any]:
    """The members of create_processing_job without a name. `inputs`: name -> S3 place, each below BASE/NAME."""
    return {
        "RoleArn": role,
        "AppSpecification": {
            "ImageUri": image,
            # The image's own entrypoint would train.
            "ContainerEntrypoint": ["python3", "-m", "training.processing", f"{CODE}/{SCRIPTS[task]}"],
            "ContainerArguments": arguments,
        },
        "ProcessingInputs": [
            _input("code", folder_uri(code)),
            *(_input(name, place) for name, place in inputs.items()),
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "output",
                    "S3Output": {
                        "S3Uri": output,
                        "LocalPath": f"{BASE}/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {"ClusterConfig": resources},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime_seconds},
    }


def protect(request: dict[str, Any], options: argparse.Namespace) -> None:
    """What add_network's options ask for, put into a job's request."""
    network = vpc(options) | ({"EnableNetworkIsolation": True} if options.network_isolation else {})
    if network:
        request["NetworkConfig"] = network
    if options.kms_key:
        request["ProcessingOutputConfig"]["KmsKeyId"] = options.kms_key
    if options.volume_kms_key:
        request["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] = options.volume_kms_key


def _input(name: str, place: Any) -> dict[str, Any]:
    source = {
        "S3Uri": place,
        "LocalPath": f"{BASE}/{name}",
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"InputName": name, "S3Input": source}


def check_arguments() -> list[str]:
    return [f"{BASE}/data", "--sheet", f"{BASE}/output/dataset-check.png"]


def evaluate_arguments() -> list[str]:
    return [f"{BASE}/model", f"{BASE}/data", f"{BASE}/output"]


def convert_arguments() -> list[str]:
    places = (f"{BASE}/data", "--depth", f"{BASE}/depth", "--camera", f"{BASE}/camera/camera.json")
    return ["rgbd", *places, f"{BASE}/output"]
