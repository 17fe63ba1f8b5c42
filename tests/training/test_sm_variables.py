"""The SM_ variables that code written for SageMaker's own images looks for, as a model's process sees them."""

import argparse
import json
import os

from cores import available_cpus

MODEL = """
import json, os
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    encoder: str = "small"
    layers: tuple[int, ...] = (1,)
    k: int = 1
    verbose: bool = False

def train(config, *, model_dir, **_):
    found = {name: value for name, value in os.environ.items() if name.startswith("SM_")}
    (model_dir / "model.json").write_text(json.dumps(found))
"""


def variables(job, **environ):
    ended = job.run("train", **job.package(MODEL), **environ)
    assert ended.code == 0, ended.err
    return job.model


def test_what_a_real_job_tells(job):
    group = {"instance_group_name": "big", "instance_type": "ml.g5.xlarge", "hosts": ["algo-1"]}
    nameless = {"instance_type": "ml.g5.xlarge", "hosts": ["algo-1"]}
    resources = {
        "current_host": "algo-1",
        "hosts": ["algo-1"],
        "current_instance_type": "ml.g5.xlarge",
        "current_group_name": "big",
        "instance_groups": [group, nameless],
        "network_interface_name": "eth0",
        "topology": None,
    }
    job.config("resourceconfig.json", resources)
    job.config("inputdataconfig.json", {"train.set-1": {"TrainingInputMode": "File"}})
    job.channel("train.set-1", "a.jpg")
    job.hyperparameters(learning_rate=0.5, encoder="large")
    found = variables(job)
    assert found["SM_MODEL_DIR"] == str(job.root / "model")
    assert found["SM_OUTPUT_DATA_DIR"] == str(job.root / "output" / "data")
    assert found["SM_CHANNEL_TRAIN.SET-1"] == str(job.root / "input" / "data" / "train.set-1")
    assert found["SM_CHANNEL_TRAIN_SET_1"] == found["SM_CHANNEL_TRAIN.SET-1"]
    assert json.loads(found["SM_CHANNELS"]) == ["train.set-1"]
    assert json.loads(found["SM_HPS"]) == {"learning_rate": 0.5, "encoder": "large"}
    assert found["SM_HP_LEARNING_RATE"] == "0.5"
    assert json.loads(found["SM_USER_ARGS"]) == ["--encoder", "large", "--learning_rate", "0.5"]
    assert json.loads(found["SM_HOSTS"]) == ["algo-1"]
    assert found["SM_CURRENT_HOST"] == "algo-1"
    assert found["SM_CURRENT_INSTANCE_GROUP"] == "big"
    assert json.loads(found["SM_CURRENT_INSTANCE_GROUP_HOSTS"]) == ["algo-1"]
    assert json.loads(found["SM_RESOURCE_CONFIG"]) == resources
    assert found["SM_IS_HETERO"] == "false"
    assert found["SM_NUM_GPUS"] == "0"
    assert found["SM_NUM_CPUS"] == str(available_cpus())
    in_one = json.loads(found["SM_TRAINING_ENV"])
    assert in_one["channel_input_dirs"] == {"train.set-1": found["SM_CHANNEL_TRAIN.SET-1"]}
    assert in_one["hyperparameters"] == {"learning_rate": 0.5, "encoder": "large"}
    assert in_one["resource_config"] == resources
    assert in_one["current_instance_group_hosts"] == ["algo-1"]
    assert in_one["is_master"] is True
    for name in ("model_dir", "input_dir", "output_data_dir", "output_intermediate_dir", "input_config_dir"):
        assert in_one[name] == found[f"SM_{name.upper()}"]


def test_names_of_dashes_and_dots_are_there_as_they_are_and_as_a_shell_reads_them(job):
    job.config("hyperparameters.json", {"learning-rate": "0.5"})
    job.channel("a.b-c", "a.jpg")
    job.channel("a_b_c", "a.jpg")  # has the name that the other would have for a shell
    found = variables(job)
    assert found["SM_HP_LEARNING_RATE"] == found["SM_HP_LEARNING-RATE"] == "0.5"
    assert found["SM_CHANNEL_A.B-C"].endswith("a.b-c")
    assert found["SM_CHANNEL_A_B_C"].endswith("a_b_c")


def test_a_script_of_the_toolkit_parses_what_the_sdk_sent(job):
    """SDK version 2 sends JSON, and beside the user's values its own."""
    sent = {"encoder": '"large"', "learning_rate": "0.5", "layers": "[1, 2]", "k": "3", "verbose": "true"}
    own = {
        "sagemaker_program": '"train.py"',
        "sagemaker_region": '"eu-west-1"',
        "_tuning_objective_metric": "a",
    }
    job.config("hyperparameters.json", sent | own)
    found = variables(job)
    parser = argparse.ArgumentParser()
    for name, kind in (("--encoder", str), ("--learning_rate", float), ("--layers", str), ("-k", int)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--verbose")
    parsed = vars(parser.parse_args(json.loads(found["SM_USER_ARGS"])))
    assert parsed == {"encoder": "large", "learning_rate": 0.5, "layers": "[1, 2]", "k": 3, "verbose": "True"}
    values = {"encoder": "large", "learning_rate": 0.5, "layers": [1, 2], "k": 3, "verbose": True}
    assert json.loads(found["SM_HPS"]) == values
    assert json.loads(found["SM_TRAINING_ENV"])["hyperparameters"] == values
    assert (found["SM_HP_ENCODER"], found["SM_HP_LAYERS"], found["SM_HP_VERBOSE"]) == (
        "large",
        "[1, 2]",
        "true",
    )
    assert not [name for name in found if "SAGEMAKER" in name or "TUNING" in name]


def test_the_processors_are_those_that_the_job_may_use(job):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        found = variables(job)
    finally:
        os.sched_setaffinity(0, allowed)
    assert found["SM_NUM_CPUS"] == "1"
    assert json.loads(found["SM_TRAINING_ENV"])["num_cpus"] == 1


def test_what_is_unknown_is_not_there_and_what_the_job_sets_stays(job):
    found = variables(job, SM_LOG_LEVEL="10")
    assert found["SM_LOG_LEVEL"] == "10"
    assert found["SM_CURRENT_HOST"] == "algo-1"
    assert "SM_CURRENT_INSTANCE_TYPE" not in found
    assert "SM_NETWORK_INTERFACE_NAME" not in found


def test_a_value_that_no_program_can_be_started_with_is_left_out(job):
    """Linux refuses a variable above 128 KiB; a job may have 100 hyperparameters of 2500 characters."""
    job.hyperparameters(learning_rate="0.5", encoder="x" * 110_000)
    found = variables(job)
    assert "SM_HPS" not in found
    assert found["SM_HP_LEARNING_RATE"] == "0.5"
