"""Middle of a training job: one process of it, which calls the model's `train`.

`python -m training.rank` is started by job.py, which judges how it ends (0, or a failure file and 1), or, as
one of several, by launch.py.
"""

import logging
import os
import sys
from contextlib import closing, nullcontext
from functools import partial

import logs
import model_api
from training import failure, hyperparameters
from training.environment import Environment, Place, read_environment, read_place, read_tree
from training.metric_lines import metric_line
from training.process_group import process_group
from training.stop_signals import StopSignals, end_with_parent
from training.work_report import WorkReport

logger = logging.getLogger("training.rank")  # its name when run by `-m` is __main__


def main() -> int:
    stop = StopSignals()
    stop.install()
    end_with_parent()
    place = read_place()
    logs.configure("INFO" if place.rank == 0 else "WARNING")
    process = None
    try:
        environment = read_environment()
        if place.count > 1:
            process = f"process {place.rank + 1} of {place.count}, on {environment.current_host}"
        _train(environment, place, stop)
    except BaseException as error:  # whatever ends a rank, a model's sys.exit() too, is written down
        logger.exception("training failed%s", f" in {process}" if process else "")
        failure.write_first(read_tree().failure_file, failure.describe(error, process))
        return 1
    return 0


def _train(environment: Environment, place: Place, stop: StopSignals) -> None:
    config_class, train = model_api.load_training(environment.model_package)
    several = place.count > 1
    group = process_group(place, environment.collective_timeout_seconds) if several else nullcontext()
    with closing(WorkReport(environment.work_address)) as work, group:
        train(
            hyperparameters.resolve(config_class, environment.hyperparameters),
            channels=environment.channels,
            model_dir=environment.tree.model_dir,
            output_dir=environment.tree.output_dir,
            checkpoint_dir=environment.checkpoint_dir,
            report=partial(report, work) if place.rank == 0 else unheard,
            should_stop=lambda: stop.requested,
        )


def report(work: WorkReport, name: str, value: float, step: int) -> None:
    """Print one number as SageMaker reads it, and tell the metrics agent; one not finite goes to the log only."""
    line = metric_line(name, value, step)
    if line is None:
        logger.warning("%s is %s at step %d: not published", name, value, step)
    else:
        sys.stdout.write(line + "\n")  # one write, as the metrics agent prints on the same stream
        sys.stdout.flush()
        work.tell(name, float(value))


def unheard(name: str, value: float, step: int) -> None:
    """What the other processes report: a number printed by each of them would be as many points."""


def _end_at_once(code: int) -> None:
    """End without Python's own tidying up: gloo's threads may still run, and then abort a process that is done."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_code = main()
    if read_place().count > 1:
        _end_at_once(exit_code)
    sys.exit(exit_code)
