"""The SM_ variables that code written for SageMaker's own images looks for, as a model's process sees them."""

import json

MODEL = """
import json, os
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    encoder: str = "small"

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
    resources = {
        "current_host": "algo-1",
        "hosts": ["algo-1"],
        "current_instance_type": "ml.g5.xlarge",
        "current_group_name": "big",
        "instance_groups": [group],
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
    assert json.loads(found["SM_CHANNELS"]) == ["train.set-1"]
    assert json.loads(found["SM_HPS"]) == {"learning_rate": "0.5", "encoder": "large"}
    assert found["SM_HP_LEARNING_RATE"] == "0.5"
    assert json.loads(found["SM_USER_ARGS"]) == ["--learning_rate", "0.5", "--encoder", "large"]
    assert json.loads(found["SM_HOSTS"]) == ["algo-1"]
    assert found["SM_CURRENT_HOST"] == "algo-1"
    assert found["SM_CURRENT_INSTANCE_GROUP"] == "big"
    assert json.loads(found["SM_CURRENT_INSTANCE_GROUP_HOSTS"]) == ["algo-1"]
    assert json.loads(found["SM_RESOURCE_CONFIG"]) == resources
    assert found["SM_IS_HETERO"] == "false"
    assert found["SM_NUM_GPUS"] == "0"
    assert int(found["SM_NUM_CPUS"]) >= 1
    in_one = json.loads(found["SM_TRAINING_ENV"])
    assert in_one["channel_input_dirs"] == {"train.set-1": found["SM_CHANNEL_TRAIN.SET-1"]}
    assert in_one["hyperparameters"] == {"learning_rate": "0.5", "encoder": "large"}
    assert in_one["resource_config"] == resources
    assert in_one["current_instance_group_hosts"] == ["algo-1"]
    assert in_one["is_master"] is True
    for name in ("model_dir", "input_dir", "output_data_dir", "output_intermediate_dir", "input_config_dir"):
        assert in_one[name] == found[f"SM_{name.upper()}"]


def test_a_dash_becomes_an_underscore_that_programs_can_read(job):
    job.config("hyperparameters.json", {"learning-rate": "0.5"})
    assert variables(job)["SM_HP_LEARNING_RATE"] == "0.5"


def test_what_is_unknown_is_not_there_and_what_the_job_sets_stays(job):
    found = variables(job, SM_LOG_LEVEL="10")
    assert found["SM_LOG_LEVEL"] == "10"
    assert found["SM_CURRENT_HOST"] == "algo-1"
    assert "SM_CURRENT_INSTANCE_TYPE" not in found
    assert "SM_NETWORK_INTERFACE_NAME" not in found


def test_a_value_that_no_program_can_be_started_with_is_left_out(job):
    """Linux refuses a variable above 128 KiB; a job may have 100 hyperparameters of 2500 characters."""
    job.hyperparameters(learning_rate="0.5", **{f"sagemaker_{index}": "x" * 2500 for index in range(99)})
    found = variables(job)
    assert "SM_HPS" not in found
    assert found["SM_HP_LEARNING_RATE"] == "0.5"
