"""Middle of a training job: one process of it, which calls the model's `train`.

`python -m training.rank` is started by job.py, which judges how it ends: 0, or a failure file and 1.
"""

import ctypes
import logging
import signal
import sys

import logs
import model_api
from training import failure, hyperparameters
from training.environment import Environment, read_environment, read_tree
from training.metric_lines import metric_line
from training.stop_signals import StopSignals

logger = logging.getLogger("training.rank")  # its name when run by `-m` is __main__

PR_SET_PDEATHSIG = 1


def main() -> int:
    stop = StopSignals()
    stop.install()
    _end_with_parent()
    logs.configure()
    try:
        _train(read_environment(), stop)
    except BaseException as error:  # whatever ends a rank, a model's sys.exit() too, is written down
        logger.exception("training failed")
        failure.write(read_tree().failure_file, failure.describe(error))
        return 1
    return 0


def _train(environment: Environment, stop: StopSignals) -> None:
    config_class, train = model_api.load_training(environment.model_package)
    train(
        hyperparameters.resolve(config_class, environment.hyperparameters),
        channels=environment.channels,
        model_dir=environment.tree.model_dir,
        output_dir=environment.tree.output_dir,
        checkpoint_dir=environment.checkpoint_dir,
        report=report,
        should_stop=lambda: stop.requested,
    )


def report(name: str, value: float, step: int) -> None:
    """Print one number as SageMaker reads it; a value that is not finite goes to the log only."""
    line = metric_line(name, value, step)
    if line is None:
        logger.warning("%s is %s at step %d: not published", name, value, step)
    else:
        sys.stdout.write(line + "\n")  # one write, as the metrics agent prints on the same stream
        sys.stdout.flush()


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent, even one killed by SIGKILL.

    Outside a container a rank left behind would write the same checkpoints as the next run's.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
