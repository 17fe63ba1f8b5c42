"""What can be watched at SageMaker: one row for each kind, the same for `train`, `status`, `logs` and `delete`."""

import re
from dataclasses import dataclass
from typing import Any

from launching.calls import Aws, Call, LaunchError


@dataclass(frozen=True)
class Kind:
    """How to ask SageMaker about one kind of thing."""

    title: str
    describe: str
    name_key: str
    status_key: str
    good: str
    """The status of one that ended, or came up, as it should."""
    underway: frozenset[str]
    """The statuses that are no end; every other one is."""
    log_group: str = ""
    """With {name} for its name; empty: it has no log of its own."""
    log_prefix: str = "{name}/"
    stop: str = ""
    list: str = ""
    summaries: str = ""
    """The listing's operation and the member of its answer."""
    console_path: str = ""

    def described(self, name: str) -> Call:
        return Call("sagemaker", self.describe, {self.name_key: name})

    def accepted(self, name: str, region: str) -> str:
        """What to tell when AWS has taken it on."""
        link = self.console(name, region)
        return f"{self.title} {name} is accepted" + (f": {link}" if link else "")

    def log_place(self, name: str) -> tuple[str, str]:
        """CloudWatch's log group, and how its streams' names begin."""
        return self.log_group.format(name=name), self.log_prefix.format(name=name)

    def console(self, name: str, region: str) -> str | None:
        """Its page in AWS's console; None where that has another address (China, GovCloud) or no such page."""
        if not self.console_path or re.match("cn-|us-gov-|us-iso|eusc-", region):
            return None
        return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{self.console_path}/{name}"


JOB_UNDERWAY = frozenset({"InProgress", "Stopping"})

TRAINING = Kind(
    title="training job",
    describe="describe_training_job",
    name_key="TrainingJobName",
    status_key="TrainingJobStatus",
    good="Completed",
    underway=JOB_UNDERWAY | {"Deleting"},
    log_group="/aws/sagemaker/TrainingJobs",
    stop="stop_training_job",
    list="list_training_jobs",
    summaries="TrainingJobSummaries",
    console_path="jobs",
)
TUNING = Kind(
    title="tuning job",
    describe="describe_hyper_parameter_tuning_job",
    name_key="HyperParameterTuningJobName",
    status_key="HyperParameterTuningJobStatus",
    good="Completed",
    underway=JOB_UNDERWAY | {"Deleting"},
    stop="stop_hyper_parameter_tuning_job",
    list="list_hyper_parameter_tuning_jobs",
    summaries="HyperParameterTuningJobSummaries",
    console_path="hyper-tuning-jobs",
)
TRANSFORM = Kind(
    title="transform job",
    describe="describe_transform_job",
    name_key="TransformJobName",
    status_key="TransformJobStatus",
    good="Completed",
    underway=JOB_UNDERWAY,
    log_group="/aws/sagemaker/TransformJobs",
    stop="stop_transform_job",
    list="list_transform_jobs",
    summaries="TransformJobSummaries",
    console_path="transform-jobs",
)
PROCESSING = Kind(
    title="processing job",
    describe="describe_processing_job",
    name_key="ProcessingJobName",
    status_key="ProcessingJobStatus",
    good="Completed",
    underway=JOB_UNDERWAY,
    log_group="/aws/sagemaker/ProcessingJobs",
    stop="stop_processing_job",
    list="list_processing_jobs",
    summaries="ProcessingJobSummaries",
    console_path="processing-jobs",
)
ENDPOINT = Kind(
    title="endpoint",
    describe="describe_endpoint",
    name_key="EndpointName",
    status_key="EndpointStatus",
    good="InService",
    underway=frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}),
    log_group="/aws/sagemaker/Endpoints/{name}",
    log_prefix="",
    list="list_endpoints",
    summaries="Endpoints",
    console_path="endpoints",
)
COMPONENT = Kind(
    title="inference component",
    describe="describe_inference_component",
    name_key="InferenceComponentName",
    status_key="InferenceComponentStatus",
    good="InService",
    underway=frozenset({"Creating", "Updating", "Deleting"}),
    log_group="/aws/sagemaker/InferenceComponents/{name}",
    log_prefix="",
    list="list_inference_components",
    summaries="InferenceComponents",
)
KINDS = (TRAINING, TUNING, TRANSFORM, PROCESSING, ENDPOINT)


def find(name: str, aws: Aws) -> list[tuple[Kind, dict[str, Any]]]:
    """Everything of this name, with SageMaker's description."""
    return [(kind, answer) for kind in KINDS if (answer := aws.found(kind.described(name)))]


def nothing_of(name: str, aws: Aws, *others: str) -> LaunchError:
    """For who looked for something in vain."""
    titles = ", ".join([*(kind.title for kind in KINDS), *others])
    return LaunchError(f"there is no {titles} of the name {name} in {aws.region}; see `launch.py status`")
