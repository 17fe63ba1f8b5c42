"""Runs of a pipeline or of a state machine: the newest of a name, its steps as they come, and what ended it."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launching.calls import Aws, Call, LaunchError
from launching.registry import approval
from launching.request import OWNER_TAG
from launching.state_machine import APPROVAL_STATES
from launching.watch import leaving, say, wait

UNDERWAY = ("Executing", "Stopping", "RUNNING")
GOOD = ("Succeeded", "SUCCEEDED")


@dataclass(frozen=True)
class Run:
    name: str
    """Of the pipeline or the state machine."""
    arn: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def kind(self) -> str:
        return "state machine" if self.is_of_machine else "pipeline"

    @property
    def is_of_machine(self) -> bool:
        return ":states:" in self.arn

    def stop(self) -> Call:
        if self.is_of_machine:
            return Call("stepfunctions", "stop_execution", {"executionArn": self.arn})
        return Call("sagemaker", "stop_pipeline_execution", {"PipelineExecutionArn": self.arn})


@dataclass(frozen=True)
class Look:
    """How a run goes."""

    status: str
    steps: list[str]
    """One line for each that began."""
    reason: str
    """Why it ended badly; empty where AWS does not say."""
    waiting_for: str | None = None
    """The ARN of the model that somebody has to approve, for a state machine to go on."""

    @property
    def is_underway(self) -> bool:
        return self.status in UNDERWAY


def looks_for(name: str) -> list[Call]:
    """The looks that `newest` makes; the last one for the machine that the one before it finds."""
    return [_pipeline_runs(name), _machines(), _machine_runs(f"(of {name})")]


def looks_for_all() -> list[Call]:
    """The looks with which `underway` begins; the others, at the runs of each, follow from them."""
    return [_pipelines(), _machines()]


def underway(aws: Aws) -> Iterator[tuple[Run, str]]:
    """The newest run, with its status, of each pipeline and of each state machine of ours, where it goes on.

    Of state machines, which are for much else too, only those that carry our tag.
    """
    for row in aws.pages(_pipelines(), "PipelineSummaries"):
        answer = aws(_pipeline_runs(row["PipelineName"]))
        for run in answer["PipelineExecutionSummaries"]:
            if run["PipelineExecutionStatus"] in UNDERWAY:
                yield Run(row["PipelineName"], run["PipelineExecutionArn"]), run["PipelineExecutionStatus"]
    for row in aws.pages(_machines(), "stateMachines"):
        arn = row["stateMachineArn"]
        for run in aws(_machine_runs(arn))["executions"]:
            if run["status"] in UNDERWAY and _is_ours(arn, aws):
                yield Run(row["name"], run["executionArn"]), run["status"]


def _is_ours(machine: str, aws: Aws) -> bool:
    tags = aws(Call("stepfunctions", "list_tags_for_resource", {"resourceArn": machine}))["tags"]
    return any(tag["key"] == OWNER_TAG for tag in tags)


def newest(name: str, aws: Aws) -> list[Run]:
    """The last run of the pipeline, and of the state machine, of this name; of what never ran none."""
    listed = aws.found(_pipeline_runs(name)) or {}
    runs = [Run(name, row["PipelineExecutionArn"]) for row in listed.get("PipelineExecutionSummaries", [])]
    if machine := find_machine(name, aws):
        runs += [Run(name, row["executionArn"]) for row in aws(_machine_runs(machine))["executions"][:1]]
    return runs


def find_machine(name: str, aws: Aws) -> str | None:
    """The ARN of the state machine of this name."""
    machines = aws.pages(_machines(), "stateMachines")
    return next((str(row["stateMachineArn"]) for row in machines if row["name"] == name), None)


def look(run: Run, aws: Aws) -> Look:
    return _look_at_machine(run, aws) if run.is_of_machine else _look_at_pipeline(run, aws)


def follow_run(run: Run, options: argparse.Namespace, aws: Aws) -> None:
    """To its end, or to where it waits for a human. Raises LaunchError with the reason when it fails."""
    seen: list[Look] = []

    def see() -> tuple[list[str], bool]:
        seen[:] = [look(run, aws)]
        return [*seen[0].steps, seen[0].status], not seen[0].is_underway or bool(seen[0].waiting_for)

    with leaving(
        f"the run of {run.title}", f"launch.py status {run.name} --wait", f"launch.py stop {run.name}"
    ):
        wait(see, options.poll_seconds)
    [last] = seen
    if last.waiting_for and last.is_underway:
        say(f"{run.title} waits for approval, looks every few minutes, and then deploys by itself")
        print(f"to approve: {approval(last.waiting_for)}")
    elif last.status not in GOOD:
        raise LaunchError(f"the run of {run.title} is {last.status}: {last.reason or 'see its steps'}")


def _pipeline_runs(name: str) -> Call:
    request = {"PipelineName": name, "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 1}
    return Call("sagemaker", "list_pipeline_executions", request)


def _pipelines() -> Call:
    return Call("sagemaker", "list_pipelines", {})


def _machines() -> Call:
    return Call("stepfunctions", "list_state_machines", {})


def _machine_runs(arn: str) -> Call:
    """The newest is the first."""
    return Call("stepfunctions", "list_executions", {"stateMachineArn": arn, "maxResults": 1})


def _look_at_pipeline(run: Run, aws: Aws) -> Look:
    here = {"PipelineExecutionArn": run.arn}
    answer = aws(Call("sagemaker", "describe_pipeline_execution", here))
    rows = aws.pages(Call("sagemaker", "list_pipeline_execution_steps", here), "PipelineExecutionSteps")
    rows.sort(key=lambda row: str(row.get("StartTime")))
    steps = [f"{row['StepName']} {row['StepStatus']} {row.get('FailureReason', '')}".rstrip() for row in rows]
    return Look(answer["PipelineExecutionStatus"], steps, answer.get("FailureReason", ""))


def _look_at_machine(run: Run, aws: Aws) -> Look:
    here = {"executionArn": run.arn}
    answer = aws(Call("stepfunctions", "describe_execution", here))
    entered = [
        event["stateEnteredEventDetails"]
        for event in aws.pages(Call("stepfunctions", "get_execution_history", here), "events")
        if "stateEnteredEventDetails" in event
    ]
    reason = ": ".join(filter(None, (answer.get("error"), answer.get("cause"))))
    # The wait for the approval is a loop: each of its states is told once.
    steps = list(dict.fromkeys(state["name"] for state in entered))
    waits = bool(entered) and entered[-1]["name"] in APPROVAL_STATES
    return Look(answer["status"], steps, reason, _package(entered[-1]) if waits else None)


def _package(state: dict[str, Any]) -> str:
    return str(json.loads(state["input"])["Package"]["ModelPackageArn"])
