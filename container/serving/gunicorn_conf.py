"""What Gunicorn is told: processes, threads, time limits, and what its master does at start and end.

Gunicorn reads this file once, in its master, which never loads torch: CUDA does not survive a fork.
"""

import logging
import os
import secrets
import shutil
import tempfile
from typing import Any

from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from prometheus_client import multiprocess

import logs
from metrics.agent_process import AgentProcess, start_agent
from serving.balance import Balance
from serving.capacity import Capacity
from serving.failure import last_words
from serving.gunicorn_worker import Worker
from serving.health import forget_worker
from serving.multi_model.process import end_leftovers
from serving.settings import MODELS_FOLDER, load_settings, run_directory, use_gpu, visible_gpus

MAX_RESTARTS = 3
SPARE_THREADS = 16
"""Threads that /ping, /metrics and refusals can always have: inference never gets more than MAX_QUEUE."""

_log = logging.getLogger(__name__)
_settings = load_settings()
_gpus = visible_gpus()
logs.configure(_settings.log_level)


class InheritingLogger(Logger):  # type: ignore[misc]
    """Sends Gunicorn's own lines through the root logger, so that all lines look alike."""

    def setup(self, cfg: Any) -> None:
        """Called by Gunicorn when it starts."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.setLevel("NOTSET")
        self.error_log.propagate = True


bind = f"0.0.0.0:{_settings.port}" if _settings.socket is None else f"unix:{_settings.socket}"
# Of many models, each has processes of its own, and this one keeps the table of them.
workers = 1 if _settings.multi_model else Capacity.of(_settings).workers
_work_address = f"serving-{secrets.token_hex(8)}" if _settings.gpu_metrics else None
wsgi_app = f"serving.app:create_app(workers={workers}, work_address={_work_address!r})"
worker_class = Worker
threads = _settings.max_queue + SPARE_THREADS
logger_class = InheritingLogger
sendfile = False  # it would wait for slow clients by itself
accesslog = None  # /ping comes every few seconds
control_socket_disable = True  # it would be written under HOME
# A heartbeat file on an overlay file system can stall its worker.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()  # noqa: S108
# A worker's heartbeat, not a request's time; yet a model that holds Python's lock stops it meanwhile.
timeout = max(300, _settings.request_timeout_seconds + 60)
keepalive = 75  # seconds; above the platform's 60, so that it never meets a connection just closed
graceful_timeout = 25  # seconds; SageMaker sends SIGKILL 30 s after SIGTERM

_agent: AgentProcess | None = None
_balance = Balance(workers)


def on_starting(server: Any) -> None:
    """Say what is not heeded, and start the GPU sampler: once, in the master."""
    global _agent
    script = _settings.model_dir / "code" / "inference.py"
    if _settings.script is not None or script.exists():
        _log.warning(
            "%s is for SageMaker's toolkits and is not run: the model's code is MODEL_PACKAGE=%s of this image",
            script if script.exists() else f"SAGEMAKER_PROGRAM={_settings.script}",
            _settings.model_package,
        )
    if _settings.gpu_metrics:
        names = {
            "Project": _settings.metrics_project,
            "Endpoint": _settings.endpoint_name,
            "Variant": _settings.variant_name,
        }
        dimensions = {name: value for name, value in names.items() if value is not None}
        _agent = start_agent(
            phase="serving",
            dimensions=dimensions,
            snapshot=run_directory() / "gpus.prom",
            level=_settings.metrics_level,
            work_address=_work_address,
            usd_per_hour=_settings.instance_usd_per_hour,
            sink=_settings.metrics_sink,
            region=_settings.region,
        )


def pre_fork(server: Any, worker: Any) -> None:
    """Give the new worker a place, and the server up when its workers keep dying."""
    if _settings.multi_model and worker.age > workers:
        raise HaltServer("the worker that knew the models died, its end is logged above", 1)
    if worker.age > workers + MAX_RESTARTS:
        raise HaltServer(f"workers died {MAX_RESTARTS + 1} times, their ends are logged above", 1)
    worker.place = min(set(range(workers)) - {other.place for other in server.WORKERS.values()})
    worker.balance = _balance


def post_fork(server: Any, worker: Any) -> None:
    """Give each worker a GPU of its own."""
    if len(_gpus) > 1 and not _settings.multi_model:
        use_gpu(_gpus[worker.place % len(_gpus)])


def child_exit(server: Any, worker: Any) -> None:
    """A dead worker is neither ready nor does it hold requests."""
    _balance.close(worker.place)
    forget_worker(run_directory(), worker.pid)
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Stop the sampler; if a model did not load, let the cause be the log's last line."""
    if _agent is not None:
        _agent.stop()
    last_words(run_directory())
    if _settings.multi_model:
        end_leftovers(run_directory() / MODELS_FOLDER)
    shutil.rmtree(run_directory(), ignore_errors=True)
