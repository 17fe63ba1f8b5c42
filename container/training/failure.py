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

GPU_MEMORY = "the GPU's memory is full: lower the batch or picture size, or take a larger instance"
HOST_MEMORY = "the host's memory is full: use fewer data-loading workers, or take a larger instance"
SHARED_MEMORY = (
    "the host's /dev/shm is too small for the data loader's workers: use fewer (docker run: --shm-size)"
)
DISK = "the disk is full: raise the job's VolumeSizeInGB, or take a larger instance where the disks are its own (NVMe)"

HINTS: tuple[tuple[set[int], tuple[str, ...], str], ...] = (
    (
        set(),
        ("shared memory(shm)", "signal: Bus error"),
        SHARED_MEMORY,
    ),  # before the disk: it says "no space" too
    ({errno.ENOSPC, errno.EDQUOT}, ("No space left on device", "PytorchStreamWriter failed writing"), DISK),
    (set(), ("CUDA error: out of memory", "STATUS_ALLOC_FAILED"), GPU_MEMORY),
    ({errno.ENOMEM}, ("DefaultCPUAllocator: can't allocate", "Cannot allocate memory"), HOST_MEMORY),
    ({errno.EMFILE}, ("Too many open files",), "too many open files: use fewer data-loading workers"),
)
"""What to do by an error's number or its words: torch has its own text, and mostly RuntimeError, for what the system
refused."""

SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "likely out of memory: use fewer data-loading workers, or take a larger instance",
    signal.SIGBUS: f"likely {SHARED_MEMORY}",
    signal.SIGSEGV: "a crash in native code, see the stack in the log",
    signal.SIGABRT: "native code gave up, see the log; NCCL does when another process is gone or silent too long",
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


def reserve(path: Path) -> None:
    """Take the room for the text while there is some: a full disk must be able to say so."""
    _temporary(path).write_bytes(bytes(LIMIT_BYTES))


def release(path: Path) -> None:
    """Give the room back where nothing failed."""
    _temporary(path).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Put at most LIMIT_BYTES of `text` into `path`, whole or not at all; a path that takes nothing is logged."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_clipped(text, LIMIT_BYTES), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.error("cannot write %s: %s", path, error.strerror)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _is_vague(text: str) -> bool:
    return PEER_LOST in text or NO_MESSAGE in text


def _one_line(error: BaseException) -> str:
    """Its message. torch puts a traceback into that of an error in a worker, whose last line is the cause."""
    text = str(error).strip()
    if "Traceback (most recent call last):" in text:
        heading, *_, last = text.splitlines()
        text = f"{last} ({heading})"
    return " ".join(text.split())


def _hint(error: BaseException | None) -> str | None:
    """What to do, as its kind or its words tell; where they tell nothing, those of what it came from."""
    while error is not None:
        text = str(error)
        if type(error).__name__ in PEER_ERRORS or "gloo" in text:
            return PEER_LOST
        if "DataLoader worker" in text and "signal: Killed" in text:
            memory = host_memory.describe()
            return "likely out of memory: use fewer data-loading workers" + (f"; {memory}" if memory else "")
        if type(error).__name__ == "OutOfMemoryError":  # torch's own; this module must not load torch
            return GPU_MEMORY
        if isinstance(error, MemoryError):
            return HOST_MEMORY
        number = error.errno if isinstance(error, OSError) else None
        for numbers, words, hint in HINTS:
            if number in numbers or any(word in text for word in words):
                return hint
        error = error.__cause__ or error.__context__
    return None


def _clipped(text: str, limit_bytes: int) -> str:
    """Valid UTF-8 of at most `limit_bytes`, cut on a character's border, an ellipsis where it was cut."""
    data = text.encode("utf-8", "backslashreplace")  # file names that are no UTF-8 carry lone surrogates
    if len(data) > limit_bytes:
        data = data[: limit_bytes - 3] + "…".encode()
    return data.decode("utf-8", "ignore")
