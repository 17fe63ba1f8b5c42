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
        **{f"HP_{name.upper()}": value for name, value in hyperparameters.items()},
    }
    variables = {f"SM_{name}": _text(value) for name, value in values.items() if value is not None}
    return {name: text for name, text in variables.items() if _is_possible(name, text)}


def _text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple, bool)):
        return json.dumps(value)
    return str(value)


def _is_possible(name: str, text: str) -> bool:
    return "=" not in name and "\0" not in name + text and len(os.fsencode(text)) < LIMIT_BYTES
