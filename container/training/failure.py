"""Last step of a training job that failed: its cause as text, in the file SageMaker shows to the caller.

The first 1024 characters of /opt/ml/output/failure become the job's FailureReason, so the cause comes first.
"""

import errno
import logging
import signal
import traceback
from pathlib import Path

from training import host_memory

logger = logging.getLogger(__name__)

LIMIT_BYTES = 1024
"""SageMaker keeps 1024 characters; as many bytes hold them in any script."""
CAUSE_LIMIT_BYTES = 700
"""What the first line may take, so that a long message leaves room for the frames."""
INNERMOST_FRAMES = 5

PEER_LOST = "another process of the job ended or stopped answering; its own log, perhaps another host's, has the cause"
NO_MESSAGE = "and no message; see the log above"
PEER_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError"}

SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "likely out of memory",
    signal.SIGBUS: "likely /dev/shm is too small for the data loader's workers: use fewer of them",
    signal.SIGSEGV: "a crash in native code, see the stack in the log",
    signal.SIGABRT: "native code gave up, see the log",
    signal.SIGILL: "native code was built for another processor",
}


def cause(error: BaseException) -> str:
    """One line: `ClientError: ...` when data or parameters are wrong (ValueError), else `AlgorithmError: Type: ...`."""
    message = _one_line(error)
    if isinstance(error, ValueError):
        line = f"ClientError: {message or type(error).__name__}"
    else:
        line = f"AlgorithmError: {type(error).__name__}" + (f": {message}" if message else "")
    return _clipped(line, CAUSE_LIMIT_BYTES)


def describe(error: BaseException, process: str | None = None) -> str:
    """The cause, a hint where there is one, and the innermost frames first. `process`: which of several it was."""
    lines = [cause(error)]
    if process:
        lines.append(f"in {process}")
    if hint := _hint(error):
        lines.append(f"Hint: {hint}")
    if error.__cause__ is not None:
        lines.append(f"from {type(error.__cause__).__name__}: {_one_line(error.__cause__)}")
    frames = traceback.extract_tb(error.__traceback__)[-INNERMOST_FRAMES:]
    for frame in reversed(frames):
        place = "/".join(Path(frame.filename).parts[-3:])
        lines.append(f"at {place}:{frame.lineno} in {frame.name}: {frame.line}")
    return "\n".join(lines)


def describe_exit(status: int, process: str = "the training process") -> str:
    """A rank that ended without a word. `status`: its exit code, or minus the signal that killed it."""
    if status >= 0:
        return f"AlgorithmError: {process} ended with exit code {status} {NO_MESSAGE}"
    number = -status
    name = signal.Signals(number).name if number in set(signal.Signals) else "a real-time signal"
    parts = [f"AlgorithmError: {process} was killed by signal {number} ({name})"]
    if number in SIGNAL_HINTS:
        parts.append(SIGNAL_HINTS[number])
    if number == signal.SIGKILL and (memory := host_memory.describe()):
        parts.append(memory)
    return "; ".join(parts)


def write_first(path: Path, text: str) -> None:
    """Write the text unless another process of this host was first; what names no cause gives way to what does."""
    try:
        first = path.read_text(encoding="utf-8")
    except OSError:
        first = ""
    if not first or (_is_vague(first) and not _is_vague(text)):
        write(path, text)


def write(path: Path, text: str) -> None:
    """Put at most LIMIT_BYTES of `text` into `path`, whole or not at all; a path that takes nothing is logged."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_clipped(text, LIMIT_BYTES), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.error("cannot write %s: %s", path, error.strerror)


def _is_vague(text: str) -> bool:
    return PEER_LOST in text or NO_MESSAGE in text


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _hint(error: BaseException) -> str | None:
    if type(error).__name__ == "OutOfMemoryError":  # torch's own; this module must not load torch
        return "the GPU's memory is full: lower the batch or picture size, or take a larger instance"
    if isinstance(error, MemoryError):
        return "the host's memory is full: use fewer data-loading workers, or a larger instance"
    if type(error).__name__ in PEER_ERRORS or "gloo" in str(error):
        return PEER_LOST
    if "DataLoader worker" in str(error) and "Bus error" in str(error):
        return SIGNAL_HINTS[signal.SIGBUS]
    if "DataLoader worker" in str(error) and "signal: Killed" in str(error):
        memory = host_memory.describe()
        return "likely out of memory: use fewer data-loading workers" + (f"; {memory}" if memory else "")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: raise the job's VolumeSizeInGB"
    return None


def _clipped(text: str, limit_bytes: int) -> str:
    """Valid UTF-8 of at most `limit_bytes`, cut on a character's border, an ellipsis where it was cut."""
    data = text.encode("utf-8", "backslashreplace")  # file names that are no UTF-8 carry lone surrogates
    if len(data) > limit_bytes:
        data = data[: limit_bytes - 3] + "…".encode()
    return data.decode("utf-8", "ignore")
