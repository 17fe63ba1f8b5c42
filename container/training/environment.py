"""First step of a training job: what SageMaker wrote under /opt/ml and set in the environment, read once.

The parent and each rank read it with the same function, so that neither trusts the other. Any file
may be missing (plain `docker run`, AWS Batch, local mode), and unknown files and keys are normal.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import driver
from metrics.cloudwatch import LEVELS
from metrics.sinks import SINKS
from model_api import DEFAULT_PACKAGE
from training.channels import discover

WORK_ADDRESS = "METRICS_WORK_ADDRESS"
HOSTS = "TRAINING_HOSTS"
"""The hosts that the parent was told of by variables, for its processes: torch's launcher overwrites those."""
PLACE = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
PROGRAM_DIR = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Tree:
    """The fixed places under SageMaker's folder. They need no file, so a failure always has one to go to."""

    root: Path

    @property
    def config_dir(self) -> Path:
        return self.root / "input" / "config"

    @property
    def data_dir(self) -> Path:
        return self.root / "input" / "data"

    @property
    def model_dir(self) -> Path:
        return self.root / "model"

    @property
    def output_dir(self) -> Path:
        return self.root / "output" / "data"

    @property
    def failure_file(self) -> Path:
        return self.root / "output" / "failure"

    @property
    def message_file(self) -> Path:
        """A Processing job's failure."""
        return self.root / "output" / "message"


@dataclass(frozen=True)
class Environment:
    """One training job as this host sees it."""

    tree: Tree
    job_name: str
    current_host: str
    hosts: tuple[str, ...]
    """All hosts of the job in the order every host agrees on: algo-2 before algo-10."""
    resources: Mapping[str, Any]
    """resourceconfig.json as it is; any key may be missing."""
    num_gpus: int
    """Those visible to this host's processes."""
    processes_per_host: int
    """The visible GPUs, or one process on the CPU, unless the job says otherwise."""
    rendezvous_port: int
    rendezvous_timeout_seconds: float
    """For the other hosts to come."""
    collective_timeout_seconds: float
    """For the other processes to take part in one exchange."""
    hyperparameters: Mapping[str, Any]
    """As the file has them: strings on SageMaker, any JSON value where a person wrote the file."""
    channels: Mapping[str, Path]
    declared_channels: Mapping[str, Any]
    """inputdataconfig.json as it is."""
    checkpoint_dir: Path
    checkpoints_declared: bool
    """Whether the job says that SageMaker copies `checkpoint_dir` to S3 and back."""
    model_package: str
    stop_grace_seconds: float
    gpu_metrics: bool
    metrics_project: str
    metrics_level: str
    metrics_sink: str
    region: str | None
    """AWS's, as far as the job knows it."""
    instance_usd_per_hour: float | None
    """What this host costs, where the job says so."""
    work_address: str | None
    """Where the metrics agent hears of the work; set by the parent for its processes."""

    @property
    def host_rank(self) -> int:
        """This host's place among `hosts`; the first one leads."""
        return self.hosts.index(self.current_host)


@dataclass(frozen=True)
class Place:
    """One process among those that train together, as torch's launcher numbers them."""

    rank: int
    """Among all of the job."""
    local_rank: int
    """Among those of this host."""
    count: int


@dataclass(frozen=True)
class Elsewhere:
    """What a job outside SageMaker is told, where nobody writes configuration files or copies to and from S3."""

    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, str]
    """Name to s3://BUCKET/PREFIX."""
    output: str | None
    """s3://BUCKET/PREFIX that the model and the other results go to."""
    checkpoints: str | None
    """s3://BUCKET/PREFIX that checkpoints come from and go to."""
    num_nodes: int
    """Of a multi-node job of Batch; 1 for pods, who are told of each other in another way."""
    node_index: int
    main_node_address: str | None
    """None on the main node itself, which is told no address."""


def read_elsewhere(environ: Mapping[str, str] = os.environ) -> Elsewhere:
    """Raises ValueError naming the variable that is wrong."""
    places = {name: environ.get(name) or None for name in ("S3_OUTPUT", "S3_CHECKPOINTS")}
    channels = _object(environ, "S3_CHANNELS")
    for name, place in [*places.items(), *((f"S3_CHANNELS {name}", uri) for name, uri in channels.items())]:
        if place is not None and not re.fullmatch(r"s3://[^/]+(/.*)?", str(place)):
            raise ValueError(f"{name} must be of the form s3://BUCKET/PREFIX, not {place!r}")
    main_index = environ.get("AWS_BATCH_JOB_MAIN_NODE_INDEX", "0")
    if main_index != "0":
        raise ValueError(f"AWS_BATCH_JOB_MAIN_NODE_INDEX is {main_index}: the main node must be node 0")
    pod = _read_pods(environ)
    return Elsewhere(
        hyperparameters=_object(environ, "HYPERPARAMETERS"),
        channels=channels,
        output=places["S3_OUTPUT"],
        checkpoints=places["S3_CHECKPOINTS"],
        num_nodes=int(environ.get("AWS_BATCH_JOB_NUM_NODES") or 1),
        node_index=pod["hosts"].index(pod["current_host"])
        if pod
        else int(environ.get("AWS_BATCH_JOB_NODE_INDEX") or 0),
        main_node_address=environ.get("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS") or None,
    )


def host_of(main: str, index: int) -> str:
    """The name of a host that need not be known to the others: only the main one is. It sorts after that one."""
    return f"{main}-node-{index}" if index else main


def _read_pods(environ: Mapping[str, str]) -> dict[str, Any]:
    """Several pods that train together, as Kubernetes' PyTorchJob or an indexed Job tells them; empty for one alone.

    Raises ValueError naming the variable that is wrong or missing: each pod would else train by itself.
    """
    index = _count(environ, "RANK" if environ.get("RANK") else "JOB_COMPLETION_INDEX") or 0
    pods = _count(environ, "WORLD_SIZE") or 1
    if not 0 <= index < pods:
        raise ValueError(
            f"this is pod {index} (RANK, or JOB_COMPLETION_INDEX), but WORLD_SIZE says that there are {pods}"
        )
    if pods == 1:
        return {}
    main = environ.get("MASTER_ADDR")
    if not main:
        raise ValueError(f"WORLD_SIZE is {pods}, but MASTER_ADDR, the address of the first pod, is missing")
    hosts = [host_of(main, number) for number in range(pods)]
    return {"current_host": hosts[index], "hosts": hosts}


def _count(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _object(environ: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(environ.get(name) or "{}")
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, not {value!r}")
    return value


def read_tree(environ: Mapping[str, str] = os.environ) -> Tree:
    """The tree's place: SAGEMAKER_BASE_DIR, else /opt/ml."""
    return Tree(Path(environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml").absolute())


def read_environment(environ: Mapping[str, str] = os.environ) -> Environment:
    """Everything the job was told. Raises ValueError naming the file or variable that is wrong."""
    tree = read_tree(environ)
    resources = (
        _read_object(tree.config_dir / "resourceconfig.json")
        or _object(environ, HOSTS)
        or _read_pods(environ)
    )
    declared = _read_object(tree.config_dir / "inputdataconfig.json")
    checkpoints = _read_object(tree.config_dir / "checkpointconfig.json")
    current_host = resources.get("current_host") or "algo-1"
    hosts = tuple(sorted(resources.get("hosts") or [current_host], key=_natural))
    if current_host not in hosts:
        raise ValueError(
            f"{tree.config_dir / 'resourceconfig.json'}: current_host {current_host!r} is not among "
            f"hosts ({', '.join(hosts)})"
        )
    num_gpus = visible_gpus(environ)
    arn = environ.get("TRAINING_JOB_ARN", "")
    return Environment(
        tree=tree,
        job_name=environ.get("TRAINING_JOB_NAME") or arn.rpartition("/")[2] or "local",
        current_host=current_host,
        hosts=hosts,
        resources=resources,
        num_gpus=num_gpus,
        processes_per_host=_processes(environ, num_gpus),
        rendezvous_port=_whole(
            environ, "RENDEZVOUS_PORT" if environ.get("RENDEZVOUS_PORT") else "MASTER_PORT", 7777, 65535
        ),
        rendezvous_timeout_seconds=_seconds(environ, "RENDEZVOUS_TIMEOUT_SECONDS", 900.0),
        collective_timeout_seconds=_seconds(environ, "COLLECTIVE_TIMEOUT_SECONDS", 600.0),
        hyperparameters=_read_object(tree.config_dir / "hyperparameters.json"),
        channels=discover(declared, tree.data_dir),
        declared_channels=declared,
        checkpoint_dir=Path(checkpoints.get("LocalPath") or tree.root / "checkpoints"),
        checkpoints_declared=bool(checkpoints),
        model_package=environ.get("MODEL_PACKAGE") or DEFAULT_PACKAGE,
        # SageMaker sends SIGKILL 120 s after SIGTERM: 100 leave time to write down how the job ended.
        stop_grace_seconds=_seconds(environ, "STOP_GRACE_SECONDS", 100.0),
        gpu_metrics=_switch(environ, "GPU_METRICS"),
        metrics_project=environ.get("METRICS_PROJECT") or "surface-normals",
        metrics_level=_choice(environ, "METRICS_LEVEL", "host", LEVELS),
        metrics_sink=_choice(environ, "METRICS_SINK", "emf", SINKS),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or _region_of(arn),
        instance_usd_per_hour=_number(environ, "INSTANCE_USD_PER_HOUR"),
        work_address=environ.get(WORK_ADDRESS) or None,
    )


def visible_gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """GPUs that torch will find, counted without it: a container has the device files of its own GPUs."""
    present = sum(1 for _ in devices.glob("nvidia[0-9]*"))
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    names = takewhile(lambda name: name not in ("", "-1"), (name.strip() for name in chosen.split(",")))
    return min(present, sum(1 for _ in names))


def read_place(environ: Mapping[str, str] = os.environ) -> Place:
    """This process's place; alone when no launcher started it."""
    return Place(*(int(environ.get(name, alone)) for name, alone in PLACE.items()))


def rank_environ(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a rank's process."""
    variables = dict(environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROGRAM_DIR), environ.get("PYTHONPATH"))))
    variables["PYTHONUNBUFFERED"] = "1"  # the last lines before a kill are those that matter
    # Threads that spin while they wait slow torch down tenfold as soon as anything else runs on the host.
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if environ.get("AWS_REGION"):  # SageMaker sets this one only, AWS's own tools want the other
        variables.setdefault("AWS_DEFAULT_REGION", environ["AWS_REGION"])
    return variables | driver.bridge(environ.get("LD_LIBRARY_PATH"))


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty when there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _natural(host: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", host)]


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    seconds = _number(environ, name, " of seconds")
    return default if seconds is None else seconds


def _number(environ: Mapping[str, str], name: str, what: str = "") -> float | None:
    text = environ.get(name)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be a number{what} above 0, not {text!r}")
    return number


def _whole(environ: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isdecimal() and 1 <= int(text) <= maximum):
        raise ValueError(f"{name} must be a whole number from 1 to {maximum}, not {text!r}")
    return int(text)


def _processes(environ: Mapping[str, str], num_gpus: int) -> int:
    if (environ.get("PROCESSES_PER_HOST") or "auto") != "auto":
        return _whole(environ, "PROCESSES_PER_HOST", 1, 1024)
    return max(1, num_gpus)


def _choice(environ: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    text = (environ.get(name) or default).lower()
    if text not in choices:
        raise ValueError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, not {text!r}")
    return text


def _region_of(arn: str) -> str | None:
    """The fourth part of arn:aws:sagemaker:REGION:ACCOUNT:training-job/NAME."""
    parts = arn.split(":")
    return parts[3] if len(parts) > 3 and parts[3] else None


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = (environ.get(name) or "on").lower()
    if text not in ("on", "off"):
        raise ValueError(f"{name} must be on or off, not {text!r}")
    return text == "on"
