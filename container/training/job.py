"""A training job from its first line to its exit code: the parent process, which outlives whatever training does.

Standard library only: it starts in a moment, refuses bad input before any work, and stays alive
to forward a stop, to end every process, and to say why the job failed.
"""

import dataclasses
import json
import logging
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import driver
import logs
import model_api
from metrics.agent_process import start_agent
from training import channels, failure, hyperparameters, peers
from training.environment import (
    HOSTS,
    WORK_ADDRESS,
    Environment,
    Tree,
    rank_environ,
    read_environment,
    read_tree,
)
from training.sm_variables import sm_variables
from training.stop_signals import Stopped, StopSignals

logger = logging.getLogger("training")

POLL_SECONDS = 0.05


class RankFailed(Exception):
    """The rank's process ended otherwise than well. `status`: exit code, or minus a signal's number."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def main(arguments: list[str], stop: StopSignals) -> int:
    """Do what the container's command asks; return its exit code, 2 when nobody here can."""
    logs.configure()
    if not arguments or arguments == ["train"]:
        return run(stop)
    text = (
        f"ClientError: cannot run {' '.join(arguments)!r}: {_become(arguments)}; this image trains with the "
        "command `train` or with none, and runs any program in it"
    )
    tree = read_tree()
    if tree.root.is_dir():  # on SageMaker, and not where somebody tries the image out
        failure.write(tree.failure_file, text)
    logger.error("%s", text)
    return 2


def run(stop: StopSignals) -> int:
    """Run the job. The exit code is decided here and nowhere else.

    0: complete, or stopped with a usable model. 143: stopped without. 1: failed.
    """
    started = time.monotonic()
    tree = read_tree()
    try:
        train(tree, stop)
    except Stopped as error:
        code, text = 143, f"Stopped: {error}"
    except RankFailed as error:
        code, text = 1, _rank_text(tree) or failure.describe_exit(error.status)
    except ValueError as error:
        code, text = 1, failure.cause(error)
    except Exception as error:  # whatever it is, the caller must find it in the failure file
        logger.exception("the job could not run")
        code, text = 1, failure.describe(error)
    else:
        ending = f"stopped by {stop.name}" if stop.requested else "complete"
        logger.info(
            "training %s after %.1f s, model in %s", ending, time.monotonic() - started, tree.model_dir
        )
        failure.release(tree.failure_file)
        return 0
    if text != _rank_text(tree):
        failure.write(tree.failure_file, text)
    logger.error("%s", text.partition("\n")[0])
    return code


def train(tree: Tree, stop: StopSignals) -> None:
    """The main flow. Returns when a model was written; raises Stopped, RankFailed, or ValueError for bad input."""
    environment = prepare(read_environment())
    if stop.requested:
        raise Stopped(f"by {stop.name} before training began")
    agent = None
    if environment.gpu_metrics:
        dimensions = {
            "Project": environment.metrics_project,
            "JobName": environment.job_name,
            "Host": environment.current_host,
        }
        address = f"training-{secrets.token_hex(8)}"
        environment = dataclasses.replace(environment, work_address=address)
        agent = start_agent(
            phase="training",
            dimensions=dimensions,
            level=environment.metrics_level,
            work_address=address,
            num_hosts=len(environment.hosts),
            usd_per_hour=environment.instance_usd_per_hour,
            sink=environment.metrics_sink,
            region=environment.region,
            summary=tree.output_dir / summary_name(environment),
        )
    try:
        status = run_rank(environment, stop)
        if stop.requested and status == -signal.SIGTERM:  # the model took the signal's handler away
            raise Stopped(f"by {stop.name}, which ended training")
    except Stopped as stopped:
        if not _has_model(tree):
            raise Stopped(f"{stopped}, before a model was written") from stopped
        logger.warning("stopped %s, after a model was written", stopped)
        return
    finally:
        if agent is not None:
            agent.stop()
    if status != 0:
        raise RankFailed(status)
    if environment.host_rank == 0 and not _has_model(tree):
        if stop.requested:
            raise Stopped(f"by {stop.name}, and the model's train() wrote nothing to {tree.model_dir}")
        raise RuntimeError(f"the model's train() returned and wrote nothing to {tree.model_dir}")


def _has_model(tree: Tree) -> bool:
    """Whether the model's files stand there; while they are written they have hidden names."""
    return any(path.is_file() and not path.name.startswith(".") for path in tree.model_dir.rglob("*"))


def summary_name(environment: Environment) -> str:
    """Of this host's GPU summary: SageMaker puts the output folders of all hosts into one."""
    host = environment.current_host
    return "gpu-summary.json" if environment.host_rank == 0 else f"gpu-summary-{host}.json"


def prepare(environment: Environment) -> Environment:
    """Say what the job is and refuse what cannot work, before any work; the job as it will run. Raises ValueError."""
    tree = environment.tree
    for folder in (tree.output_dir.parent, tree.output_dir, tree.model_dir, environment.checkpoint_dir):
        _make_writable(folder)
    tree.failure_file.unlink(missing_ok=True)  # of an earlier attempt on the same folders
    failure.reserve(tree.failure_file)
    counts = {name: _count_files(environment, name) for name in environment.channels}
    found = ", ".join(f"{name} ({_spelt(count)})" for name, count in counts.items()) or "none"
    logger.info(
        "job %s on %s, channels: %s, Python %s",
        environment.job_name,
        environment.current_host,
        found,
        platform.python_version(),
    )
    logger.info(driver.describe(visible_gpus=environment.num_gpus))
    if environment.num_gpus:
        driver.check()
    if not environment.checkpoints_declared:
        logger.info("checkpoints in %s are not copied to S3: no CheckpointConfig", environment.checkpoint_dir)
    if skipped := hyperparameters.ignored(environment.hyperparameters):
        logger.info("ignored, as this image trains its own model: %s", ", ".join(skipped))
    config = hyperparameters.resolve(_config_class(environment.model_package), environment.hyperparameters)
    logger.info("hyperparameters of %s: %s", environment.model_package, hyperparameters.shown(config))
    return _with_processes(environment)


def _count_files(environment: Environment, name: str) -> int:
    """Raises ValueError where a channel holds nothing, but for one that the hosts share."""
    is_shared = len(environment.hosts) > 1 and channels.is_sharded(environment.declared_channels, name)
    count = channels.check(name, environment.channels[name], may_be_empty=is_shared)
    if not count:
        logger.warning(
            "channel %r: this host was given no file; ShardedByS3Key has one for each host only if there are "
            "as many objects as hosts",
            name,
        )
    return count


def _with_processes(environment: Environment) -> Environment:
    """The job with as many processes as its model can use. Raises ValueError where that is not all its hosts."""
    hosts, each = len(environment.hosts), environment.processes_per_host
    if model_api.is_distributed(environment.model_package):
        if not _is_alone(environment):
            logger.info("%d host(s) with %d process(es) each; %s leads", hosts, each, environment.hosts[0])
        if hosts > 1:
            logger.info(
                "%d EFA device(s); NCCL uses them through the plugin aws-ofi-nccl, where the image has it, else TCP "
                "(NCCL_DEBUG=INFO shows which)",
                peers.efa_devices(),
            )
        return environment
    if hosts > 1:
        raise ValueError(
            f"the job has {hosts} hosts ({', '.join(environment.hosts)}), and {environment.model_package} trains in "
            "one process: set InstanceCount to 1"
        )
    if each > 1:
        logger.warning("%s trains in one process: %d GPUs stay unused", environment.model_package, each - 1)
    return dataclasses.replace(environment, processes_per_host=1)


def _is_alone(environment: Environment) -> bool:
    return len(environment.hosts) == 1 and environment.processes_per_host == 1


def run_rank(environment: Environment, stop: StopSignals) -> int:
    """Train in another process, or several below torch's launcher; return its status.

    Raises Stopped when the stop took too long.

    Only the rank hears of a stop: data loaders that got the signal too would fail in mid-step.
    No process of the group is left behind, however this ends.
    """
    program = "training.rank" if _is_alone(environment) else "training.launch"
    variables = sm_variables(environment)
    variables[HOSTS] = json.dumps({"current_host": environment.current_host, "hosts": environment.hosts})
    if environment.work_address:
        variables[WORK_ADDRESS] = environment.work_address
    if not _is_alone(environment):
        variables |= peers.variables(environment)
    rank = None
    try:
        with stop.held_back():
            rank = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", program],
                env=variables | rank_environ(),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = None
        while rank.poll() is None:
            if stop.requested and deadline is None:
                logger.info(
                    "%s: training is asked to stop within %g s", stop.name, environment.stop_grace_seconds
                )
                deadline = time.monotonic() + environment.stop_grace_seconds
                rank.send_signal(signal.SIGTERM)
            if deadline is not None and time.monotonic() > deadline:
                raise Stopped(
                    f"by {stop.name}; training did not end within {environment.stop_grace_seconds:g} s"
                )
            time.sleep(POLL_SECONDS)
        return rank.returncode
    finally:
        stop.ignore()
        if rank is not None:
            _kill_group(rank)


def _become(arguments: list[str]) -> str:
    """Give this process to another program, as `docker run IMAGE bash` asks. Returns only to say why not."""
    if arguments[0] == "train":
        return "`train` takes no arguments, hyperparameters come from hyperparameters.json"
    if not shutil.which(arguments[0]):
        return "there is no such program"
    try:
        # As a rank of a training would have it: with the bridge to an older driver, where one is needed.
        os.execvpe(arguments[0], arguments, rank_environ())  # noqa: S606 - no shell between
    except OSError as error:
        return str(error.strerror)


def _kill_group(rank: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(rank.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the usual case: nothing is left
    rank.wait()


def _config_class(package: str) -> type:
    try:
        return model_api.load_training(package)[0]
    except ValueError as error:  # raised by a line of the package, so not by the caller's input
        raise ImportError(f"{package}.training cannot be imported: {error}") from error


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}; it must be a folder, mounted read-write "
            "(SAGEMAKER_BASE_DIR moves the whole tree)"
        ) from error


def _spelt(count: int) -> str:
    return f"{count}{' or more' if count == channels.COUNT_LIMIT else ''} file{'' if count == 1 else 's'}"


def _rank_text(tree: Tree) -> str | None:
    """What the rank itself wrote about its failure."""
    try:
        return tree.failure_file.read_text(encoding="utf-8")
    except OSError:
        return None
