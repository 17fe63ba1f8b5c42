"""Before a rank starts: what SageMaker's own images tell a training script in SM_ variables, for code that expects it.

Neither SageMaker nor this project's code reads them; its toolkit, whose names these are, is not in the image.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from cores import available_cpus
from training.environment import Environment
from training.hyperparameters import ignored

LIMIT_BYTES = 100_000
"""Linux refuses to start a program with a variable above 128 KiB."""


def sm_variables(environment: Environment) -> dict[str, str]:
    """SM_MODEL_DIR, SM_CHANNEL_TRAIN, SM_HPS and so on. Values that are no text are JSON."""
    tree, resources = environment.tree, environment.resources
    hyperparameters = _decoded(environment.hyperparameters)
    groups = {
        group["instance_group_name"]: group
        for group in resources.get("instance_groups") or []
        if "instance_group_name" in group
    }
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
        "USER_ARGS": _arguments(hyperparameters),
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
        "NUM_CPUS": available_cpus(),
        "NUM_NEURONS": 0,
        "LOG_LEVEL": 20,
        **_each("CHANNEL", environment.channels),
        **_each("HP", hyperparameters),
        "TRAINING_ENV": _training_env(environment, hyperparameters, groups),
    }
    variables = {f"SM_{name}": _text(value) for name, value in values.items() if value is not None}
    return {name: text for name, text in variables.items() if _is_possible(name, text)}


def _decoded(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those for the user's code, as the toolkit hands them over: JSON where they are JSON, else the text."""
    skipped, found = ignored(hyperparameters), {}
    for name, text in hyperparameters.items():
        if name in skipped:
            continue
        try:
            found[name] = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            found[name] = text
    return found


def _arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """A command line for a script's argparse, by name, in the toolkit's spelling: `--name value`, `-n value`."""
    words = []
    for name, value in sorted(hyperparameters.items()):
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={item}" for key, item in sorted(value.items()))
        words += [f"--{name}" if len(name) > 1 else f"-{name}", "" if value is None else str(value)]
    return words


def _each(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A variable for each, under the toolkit's name, which may hold dots and dashes, and under one for shells."""
    exact = {f"{kind}_{name.upper()}": value for name, value in values.items()}
    return {re.sub("[^A-Z0-9_]", "_", name): value for name, value in exact.items()} | exact


def _training_env(
    environment: Environment, hyperparameters: Mapping[str, Any], groups: Mapping[str, Any]
) -> dict[str, Any]:
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
        "hyperparameters": hyperparameters,
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
        "num_cpus": available_cpus(),
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
