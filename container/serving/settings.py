"""Everything that can be set when serving: one table, read from the environment by `serve` and Gunicorn.

No other file of this folder reads the environment.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import driver
import model_api
from metrics.cloudwatch import LEVELS
from metrics.sinks import SINKS

MEBIBYTE = 2**20
BATCH_TIMEOUT_SECONDS = 3600
"""Batch transform's longest InvocationsTimeoutInSeconds: its own shorter one ends a request before us."""
MODELS_FOLDER = "models"
"""In the run directory: what the servers of a multi-model endpoint keep."""
CPU_MAX_BATCH = 4
"""On a CPU larger batches gain nothing: their buffers are so large that the kernel clears them anew each time."""


class SettingError(ValueError):
    """A setting has a value that it cannot have; the text names both."""


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """A parser of whole numbers in a range, both ends included."""

    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def price(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("a number above 0")
    return number


def on_or_off(text: str) -> bool:
    """`on` or `off` in any case."""
    if text.strip().lower() not in ("on", "off"):
        raise ValueError("on or off")
    return text.strip().lower() == "on"


def true_or_false(text: str) -> bool:
    """`true` or `false` in any case, as SageMaker writes it."""
    if text.strip().lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.strip().lower() == "true"


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """A parser of one of these words, in any case."""

    def parse(text: str) -> str:
        if text.strip().lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text.strip().lower()

    return parse


def route(text: str) -> str:
    """A path of an URL."""
    if not text.startswith("/") or any(character in text for character in "<>? #"):
        raise ValueError("a path that begins with /")
    return text


def variable(
    name: str, parse: Callable[[str], Any], explanation: str, *, also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What the table says of a setting besides its default: the variable, its type, what it is for.

    `also`: what SageMaker's toolkits and other platforms call it; the first name that is set counts.
    """
    others = f" (also {', '.join(f'`{other}`' for other in also)})" if also else ""
    return {"name": name, "names": (name, *also), "parse": parse, "help": explanation + others}


@dataclass(frozen=True)
class Settings:
    """The table. Names that begin with SAGEMAKER_ are the platform's or its toolkits', with AIP_ Vertex AI's."""

    base_dir: Path = field(
        default=Path("/opt/ml"),
        metadata=variable(
            "SAGEMAKER_BASE_DIR", Path, "where /opt/ml is; the model lies in its folder `model`"
        ),
    )
    model_folder: Path | None = field(
        default=None,
        metadata=variable(
            "MODEL_DIR", Path, "the model's folder, if it is another", also=("AZUREML_MODEL_DIR",)
        ),
    )
    model_package: str = field(
        default=model_api.DEFAULT_PACKAGE,
        metadata=variable("MODEL_PACKAGE", str, "the folder beside serving/ that holds the model's code"),
    )
    script: str | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_PROGRAM", str, "a script for SageMaker's toolkits: not run here, and the log says so"
        ),
    )
    port: int = field(
        default=8080,
        metadata=variable(
            "SAGEMAKER_BIND_TO_PORT",
            whole_number(1, 65535),
            "the port to listen on",
            also=("AIP_HTTP_PORT",),
        ),
    )
    socket: Path | None = field(
        default=None,
        metadata=variable(
            "BIND_TO_SOCKET",
            Path,
            "listen on this Unix socket, and on no port; so each model of a multi-model endpoint is served",
        ),
    )
    multi_model: bool | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_MULTI_MODEL",
            true_or_false,
            "true on a multi-model endpoint: models come and go by `/models`",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_MODEL_SERVER_WORKERS",
            whole_number(1, 64),
            "processes, each with its own copy of the model; unset: one per visible GPU, one without a GPU",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=variable(
            "OMP_NUM_THREADS",
            whole_number(1, 1024),
            "threads of a worker's compute on the CPU; unset: its share of the cores that the container may use",
        ),
    )
    engine: str | None = field(
        default=None,
        metadata=variable(
            "ENGINE",
            str,
            "what computes the predictions, of those that the model offers: `eager` (torch), `bfloat16` (the same, "
            "rounded so) or `onnx` (ONNX Runtime, on the CPU); unset: `onnx` on a CPU where the model "
            "was exported, else `eager`",
        ),
    )
    default_accept: str | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
            str,
            "media type of the answer to a request that asks for none; unset: the model's first",
        ),
    )
    max_batch: int = field(
        default=8,
        metadata=variable(
            "MAX_BATCH",
            whole_number(1, 1024),
            "most requests that go through the model together; without a GPU 4 unless set",
        ),
    )
    max_queue: int = field(
        default=32,
        metadata=variable(
            "MAX_QUEUE",
            whole_number(1, 512),
            "most requests that a worker holds at once, waiting and running; one more is answered 503",
        ),
    )
    max_body_mb: int = field(
        default=100,  # batch transform's largest payload; a real-time request has at most 25
        metadata=variable(
            "MAX_BODY_MB", whole_number(1, 1024), "largest request body in MiB; a larger one is answered 413"
        ),
    )
    request_timeout_seconds: int = field(
        default=55,  # SageMaker gives up on a real-time request after 60 s, on an asynchronous one after 1 h
        metadata=variable(
            "REQUEST_TIMEOUT_SECONDS",
            whole_number(1, 86400),
            "a request that takes longer is answered 504; in batch transform 3600 unless set",
            also=("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "SAGEMAKER_MODEL_SERVER_TIMEOUT"),
        ),
    )
    error_records: bool = field(
        default=False,
        metadata=variable(
            "ERROR_RECORDS",
            on_or_off,
            "on: what cannot be decoded is answered 200 with the error as JSON, so that a batch goes on",
        ),
    )
    batch: bool | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_BATCH", true_or_false, "true in batch transform, which gives requests more time"
        ),
    )
    max_payload_mb: int | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_MAX_PAYLOAD_IN_MB",
            whole_number(0, 1024),
            "what the batch transform job was given; `/execution-parameters` then suits it",
        ),
    )
    max_concurrent_transforms: int | None = field(
        default=None,
        metadata=variable(
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",
            whole_number(0, 1024),
            "likewise",
        ),
    )
    health_route: str | None = field(
        default=None,
        metadata=variable("AIP_HEALTH_ROUTE", route, "another path for `/ping`; Vertex AI sets it"),
    )
    predict_route: str | None = field(
        default=None,
        metadata=variable(
            "AIP_PREDICT_ROUTE",
            route,
            "another path for `/invocations`, which then takes `instances` too; Vertex AI sets it",
        ),
    )
    max_consecutive_failures: int = field(
        default=3,
        metadata=variable(
            "MAX_CONSECUTIVE_FAILURES",
            whole_number(1, 1000),
            "so many predictions in a row that fail by the GPU's fault make /ping answer 503",
        ),
    )
    log_level: str = field(
        default="INFO",
        metadata=variable(
            "LOG_LEVEL",
            str,
            "DEBUG, INFO, WARNING, ERROR, CRITICAL, or a number",
            also=("SAGEMAKER_CONTAINER_LOG_LEVEL",),
        ),
    )
    gpu_metrics: bool = field(
        default=True,
        metadata=variable("GPU_METRICS", on_or_off, "on or off: the process that samples the GPUs"),
    )
    metrics_project: str = field(
        default="surface-normals",
        metadata=variable("METRICS_PROJECT", str, "the GPU metrics' dimension Project"),
    )
    metrics_level: str = field(
        default="host",
        metadata=variable(
            "METRICS_LEVEL",
            one_of(LEVELS),
            "series of the project alone (`fleet`), also of each host (`host`), or of each GPU (`gpu`)",
        ),
    )
    metrics_sink: str = field(
        default="emf",
        metadata=variable(
            "METRICS_SINK",
            one_of(SINKS),
            "where they go: lines of the log (`emf`), calls of CloudWatch (`putmetricdata`), nowhere (`off`)",
        ),
    )
    region: str | None = field(
        default=None,
        metadata=variable(
            "AWS_REGION", str, "whose CloudWatch `putmetricdata` calls", also=("AWS_DEFAULT_REGION",)
        ),
    )
    endpoint_name: str | None = field(
        default=None, metadata=variable("ENDPOINT_NAME", str, "their dimension Endpoint; unset: left out")
    )
    variant_name: str | None = field(
        default=None, metadata=variable("VARIANT_NAME", str, "their dimension Variant; unset: left out")
    )

    instance_usd_per_hour: float | None = field(
        default=None,
        metadata=variable(
            "INSTANCE_USD_PER_HOUR", price, "what the host costs; unset: no metric is in dollars"
        ),
    )

    @property
    def model_dir(self) -> Path:
        """Where the platform puts the model; SageMaker unpacks its archive in /opt/ml/model."""
        return self.model_folder or self.base_dir / "model"

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return self.max_body_mb * MEBIBYTE


def load_settings() -> Settings:
    """The settings of this process. Raises SettingError naming the first variable that cannot be used."""
    values: dict[str, Any] = {}
    for row in fields(Settings):
        # Set but empty counts as unset: `docker run -e NAME=` and templates do that.
        for name in row.metadata["names"]:
            text = os.environ.get(name, "")
            if text:
                try:
                    values[row.name] = row.metadata["parse"](text)
                except ValueError as error:
                    raise SettingError(f"{name}={text!r} must be {error}") from None
                break
    if values.get("batch") and "request_timeout_seconds" not in values:
        values["request_timeout_seconds"] = BATCH_TIMEOUT_SECONDS
    if "max_batch" not in values and not visible_gpus():
        values["max_batch"] = CPU_MAX_BATCH
    return Settings(**values)


def visible_gpus() -> list[str]:
    """The GPUs that this container may use, as CUDA_VISIBLE_DEVICES names them; loads no library.

    A container is given the device files of its own GPUs only.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def use_gpu(name: str) -> None:
    """Let this process, which has not loaded CUDA yet, see one GPU only."""
    os.environ["CUDA_VISIBLE_DEVICES"] = name


def model_environment(folder: Path, socket: Path, model_dir: Path, gpu: str | None) -> dict[str, str]:
    """This process's environment for the server of one model of many, whose temporary files are in `folder`.

    It has no metrics agent: one sees all GPUs of the container.
    """
    own = {
        "SAGEMAKER_MULTI_MODEL": "",
        "GPU_METRICS": "off",
        "MODEL_DIR": str(model_dir),
        "BIND_TO_SOCKET": str(socket),
        "TMPDIR": str(folder),
    }
    return {**os.environ, **own, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}


def run_directory() -> Path:
    """The folder that the processes of this server share; `serve` makes it and names it this way."""
    try:
        return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    except KeyError:
        raise SettingError(
            "PROMETHEUS_MULTIPROC_DIR is not set: start the server with container/serve"
        ) from None


def gunicorn_environment(run_directory: Path, threads: int) -> dict[str, str]:
    """This process's environment, with what Gunicorn and the processes below it need besides.

    `threads`: of each worker's compute. The libraries read it when they are loaded.
    """
    program = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [program, os.environ.get("PYTHONPATH")]))
    return {
        # Threads that spin while they wait slow torch down tenfold as soon as anything else runs on the host.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Large buffers cost a page fault for every 4 KB otherwise, each time anew.
        "THP_MEM_ALLOC_ENABLE": "1",
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": path,
        "PROMETHEUS_MULTIPROC_DIR": str(run_directory),
        **driver.bridge(os.environ.get("LD_LIBRARY_PATH")),
    }
