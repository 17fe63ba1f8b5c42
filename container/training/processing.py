"""Around a program in a SageMaker Processing job: what the host has first, and last why the program failed.

`python3 -m training.processing FILE.py ...` runs the file as a rank of a training would run and ends as it did. The
last line of what went wrong goes to /opt/ml/output/message, which SageMaker shows as the job's ExitMessage.
"""

import logging
import signal
import subprocess
import sys

import driver
import logs
from training import failure
from training.environment import rank_environ, read_tree, visible_gpus

logger = logging.getLogger("training.processing")


def main(command: list[str]) -> int:
    """The program's exit code, or 1 where the host's driver is too old for it."""
    logs.configure()
    # Process 1 of a container loses a signal it has no handler for; `run` puts another in its place.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    num_gpus = visible_gpus()
    logger.info(driver.describe(visible_gpus=num_gpus))
    try:
        if num_gpus:
            driver.check()
    except driver.DriverTooOld as error:
        logger.error("%s", error)
        code, text = 1, str(error)
    else:
        code, text = run(command)
    if code:
        failure.write(read_tree().message_file, text)
    return code


def run(command: list[str]) -> tuple[int, str]:
    """The exit code, as a shell has it, and the last line that the program wrote to stderr, or what ended it."""
    process = subprocess.Popen(
        [sys.executable, *command], env=rank_environ(), stderr=subprocess.PIPE, text=True, errors="replace"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    last = ""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        last = line.strip() or last
    code = process.wait()
    return (code, last) if code >= 0 else (128 - code, failure.describe_exit(code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
