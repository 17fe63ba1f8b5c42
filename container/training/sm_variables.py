"""Before a rank starts: what SageMaker's own images tell a training script in SM_ variables, for code that expects it.

Neither SageMaker nor this project's code reads them; its toolkit, whose names these are, is not in the image.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from training.environment import Environment

LIMIT_BYTES = 100_000
"""Linux refuses to start a program with a variable above 128 KiB."""


def sm_variables(environment: Environment) -> dict[str, str]:
    """SM_MODEL_DIR, SM_CHANNEL_TRAIN, SM_HPS and so on. Values that are no text are JSON."""
    tree, resources = environment.tree, environment.resources
    hyperparameters = dict(environment.hyperparameters)
    groups = {group["instance_group_name"]: group for group in resources.get("instance_groups") or []}
    group = resources.get("current_group_name")
    values: dict[str, Any] = {
        "MODEL_DIR": tree.model_dir,
        "INPUT_DIR": tree.root / "input",
        "INPUT_CONFIG_DIR": tree.config_dir,
        "INPUT_DATA_DIR": tree.data_dir,
        "OUTPUT_DIR": tree.root / "output",
        "OUTPUT_DATA_DIR": tree.output_dir,
        "OUTPUT_INTERMEDIATE_DIR": tree.root / "output" / "intermediate",
        "OUTPUT_FAILURE": tree.failure_file,
        "CHANNELS": sorted(environment.channels),
        "HPS": hyperparameters,
        "USER_ARGS": [
            word for name, value in hyperparameters.items() for word in (f"--{name}", _text(value))
        ],
        "HOSTS": environment.hosts,
        "HOST_COUNT": len(environment.hosts),
        "CURRENT_HOST": environment.current_host,
        "CURRENT_HOST_RANK": environment.host_rank,
        "CURRENT_INSTANCE_TYPE": resources.get("current_instance_type"),
        "CURRENT_INSTANCE_GROUP": group,
        "CURRENT_INSTANCE_GROUP_HOSTS": groups[group].get("hosts") if group in groups else None,
        "INSTANCE_GROUPS": list(groups) or None,
        "INSTANCE_GROUPS_DICT": groups or None,
        "IS_HETERO": len(groups) > 1,
        "NETWORK_INTERFACE_NAME": resources.get("network_interface_name"),
        "RESOURCE_CONFIG": resources,
        "INPUT_DATA_CONFIG": environment.declared_channels,
        "MASTER_ADDR": environment.hosts[0],
        "MASTER_PORT": environment.rendezvous_port,
        "NUM_GPUS": environment.num_gpus,
        "NUM_CPUS": os.cpu_count(),
        "NUM_NEURONS": 0,
        "LOG_LEVEL": 20,
        **{f"CHANNEL_{name.upper()}": folder for name, folder in environment.channels.items()},
        **{f"HP_{name.upper().replace('-', '_')}": value for name, value in hyperparameters.items()},
        "TRAINING_ENV": _training_env(environment, groups),
    }
    variables = {f"SM_{name}": _text(value) for name, value in values.items() if value is not None}
    return {name: text for name, text in variables.items() if _is_possible(name, text)}


def _training_env(environment: Environment, groups: Mapping[str, Any]) -> dict[str, Any]:
    """The same once more in one object, under the toolkit's names; what is about a user's script is left out."""
    tree, resources = environment.tree, environment.resources
    group = resources.get("current_group_name")
    return {
        "channel_input_dirs": {name: str(folder) for name, folder in environment.channels.items()},
        "current_host": environment.current_host,
        "current_instance_group": group,
        "current_instance_group_hosts": groups.get(str(group), {}).get("hosts", []),
        "current_instance_type": resources.get("current_instance_type"),
        "hosts": environment.hosts,
        "hyperparameters": dict(environment.hyperparameters),
        "input_config_dir": str(tree.config_dir),
        "input_data_config": environment.declared_channels,
        "input_dir": str(tree.root / "input"),
        "instance_groups": list(groups),
        "instance_groups_dict": groups,
        "is_hetero": len(groups) > 1,
        "is_master": environment.host_rank == 0,
        "job_name": environment.job_name,
        "log_level": 20,
        "master_hostname": environment.hosts[0],
        "model_dir": str(tree.model_dir),
        "network_interface_name": resources.get("network_interface_name"),
        "num_cpus": os.cpu_count(),
        "num_gpus": environment.num_gpus,
        "num_neurons": 0,
        "output_data_dir": str(tree.output_dir),
        "output_dir": str(tree.root / "output"),
        "output_intermediate_dir": str(tree.root / "output" / "intermediate"),
        "resource_config": resources,
    }


def _text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple, bool)):
        return json.dumps(value)
    return str(value)


def _is_possible(name: str, text: str) -> bool:
    return "=" not in name and "\0" not in name + text and len(os.fsencode(text)) < LIMIT_BYTES
