"""The requests inside a pipeline's or a state machine's definition: AWS holds them against its limits only when the
step's turn comes, which may be after a paid training.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from botocore import xform_name

from launching.calls import Call

STEPS = {
    "Processing": ("create_processing_job", {"ProcessingJobName": "a-job"}),
    "Training": ("create_training_job", {"TrainingJobName": "a-job"}),
    "RegisterModel": ("create_model_package", {}),
}
LOOKED_UP = ({"Get"}, {"Std:Join"}, {"Std:JsonGet"})
LONGEST_TIME = "20261231-235959"
CONSOLES_OWN = "0" * 36
"""The length of the name that Step Functions gives a run that has none."""


def requests_of(call: Call) -> Iterator[tuple[str, Call]]:
    """The step's name and its request, with something of the right form where only the run tells the value."""
    if call.method in ("create_pipeline", "update_pipeline"):
        yield from _of_steps(json.loads(call.arguments["PipelineDefinition"])["Steps"])
    elif call.method in ("create_state_machine", "update_state_machine"):
        yield from _of_states(
            json.loads(call.arguments["definition"])["States"], call.arguments.get("name", "")
        )


def _of_steps(steps: list[dict[str, Any]]) -> Iterator[tuple[str, Call]]:
    for step in steps:
        arguments = step["Arguments"]
        if step["Type"] in STEPS:
            method, name = STEPS[step["Type"]]
            yield step["Name"], Call("sagemaker", method, name | _filled(arguments, ""))
        for branch in ("IfSteps", "ElseSteps"):
            yield from _of_steps(arguments.get(branch, []))


def _of_states(states: dict[str, Any], machine: str) -> Iterator[tuple[str, Call]]:
    run = max(f"{machine}-{LONGEST_TIME}", CONSOLES_OWN, key=len)
    for name, state in states.items():
        # arn:aws:states:::sagemaker:createModel, ...:createTrainingJob.sync, or ...:::aws-sdk:s3:getObject
        task = re.fullmatch(
            r"arn:aws:states:::(?:aws-sdk:)?(\w+):(\w+)(?:\.sync)?", state.get("Resource", "")
        )
        if task:
            method = xform_name(task[2][0].upper() + task[2][1:])
            yield name, Call(task[1], method, _filled(state["Parameters"], run))


def _filled(value: Any, run: str, key: str = "") -> Any:
    if isinstance(value, dict):
        if set(value) in LOOKED_UP:
            return _likely(key)
        return {
            name.removesuffix(".$"): _evaluated(member, run, name)
            if name.endswith(".$")
            else _filled(member, run, name)
            for name, member in value.items()
        }
    return [_filled(item, run, key) for item in value] if isinstance(value, list) else value


def _evaluated(expression: str, run: str, key: str) -> str:
    """What Step Functions makes of it: the run's name put into a form, or something of the input."""
    form = re.fullmatch(r"States\.Format\('([^']*)', \$\$\.Execution\.Name\)", expression)
    return form[1].replace("{}", run) if form else _likely(key)


def _likely(key: str) -> str:
    return "s3://bucket/some/place" if "Uri" in key or "Url" in key else "a-name"
