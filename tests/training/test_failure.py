"""The text of /opt/ml/output/failure: cause first, never over the limit, always UTF-8."""

import errno
import signal

import pytest

from training import failure, host_memory


def raised(error):
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad picture a.jpg"), "ClientError: bad picture a.jpg"),
        (ValueError(), "ClientError: ValueError"),
        (KeyError("x"), "AlgorithmError: KeyError: 'x'"),
        (RuntimeError("first\n  second"), "AlgorithmError: RuntimeError: first second"),
        (AssertionError(), "AlgorithmError: AssertionError"),
        (SystemExit(3), "AlgorithmError: SystemExit: 3"),
    ],
)
def test_first_line_is_the_cause(error, line):
    assert failure.describe(raised(error)).splitlines()[0] == line


def test_innermost_frame_comes_first():
    def inner():
        raise RuntimeError("here")

    def outer():
        inner()

    with pytest.raises(RuntimeError) as error:
        outer()
    lines = failure.describe(error.value).splitlines()
    assert lines[1].endswith('in inner: raise RuntimeError("here")')
    assert lines[2].endswith("in outer: inner()")


def test_the_hint_of_what_an_error_was_made_from_is_told():
    error = RuntimeError("cannot save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "VolumeSizeInGB" in failure.describe(error)


def test_the_cause_of_a_workers_error_comes_before_its_traceback():
    frames = '  File "x.py", line 1, in f\n' * 99
    text = (
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        f"{frames}RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: Try again (11)\n"
    )
    lines = failure.describe(raised(RuntimeError(text))).splitlines()
    assert lines[0] == (
        "AlgorithmError: RuntimeError: RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: "
        "Try again (11) (Caught RuntimeError in DataLoader worker process 0.)"
    )
    assert "/dev/shm is too small" in lines[1]


def test_what_an_error_was_made_from_is_told():
    error = RuntimeError("cannot decode")
    error.__cause__ = OSError("truncated file")
    assert "from OSError: truncated file" in failure.describe(error)


class OutOfMemoryError(RuntimeError):
    """torch's, by its name."""


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OutOfMemoryError("CUDA out of memory"), "lower the batch"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "GPU's memory is full"),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "GPU's memory is full"),
        (MemoryError(), "host's memory is full"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"
            ),
            "host's memory is full",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host's memory is full"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on"),
            "/dev/shm",
        ),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), "VolumeSizeInGB"),
        (OSError(errno.EMFILE, "Too many open files"), "fewer data-loading workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "likely out of memory"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"),
            "/dev/shm is too small",
        ),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), "another process"),
        (OSError(errno.ENOSPC, "No space left on device"), "VolumeSizeInGB"),
    ],
)
def test_hints(error, hint):
    assert hint in failure.describe(error).splitlines()[1]


@pytest.mark.parametrize("letter", ["x", "é", "語", "😀", "\udcff"])
@pytest.mark.parametrize("shift", range(4))
def test_any_message_fits_and_is_utf8(tmp_path, letter, shift):
    path = tmp_path / "failure"
    failure.write(path, failure.describe(raised(ValueError("a" * shift + letter * 5000))))
    data = path.read_bytes()
    text = data.decode("utf-8")
    assert len(data) <= 1024
    assert text.startswith("ClientError: ")
    assert "\ufffd" not in text
    assert "\nat " in text  # the frames still find room


def test_a_text_that_is_long_in_every_part_is_cut_on_a_border(tmp_path):
    path = tmp_path / "failure"
    for shift in range(4):
        failure.write(path, "a" * shift + "語" * 2000)
        assert 1020 < len(path.read_bytes()) <= 1024
        assert path.read_bytes().decode("utf-8").endswith("語…")
    assert [file.name for file in tmp_path.iterdir()] == ["failure"]


def test_death_by_signal_names_it():
    assert failure.describe_exit(-signal.SIGKILL).startswith(
        "AlgorithmError: the training process was killed by signal 9 (SIGKILL); likely out of memory"
    )
    assert "signal 11 (SIGSEGV)" in failure.describe_exit(-signal.SIGSEGV)
    assert "/dev/shm" in failure.describe_exit(-signal.SIGBUS)
    assert "signal 15 (SIGTERM)" in failure.describe_exit(-signal.SIGTERM)
    assert "signal 40" in failure.describe_exit(-40)
    assert "exit code 3 and no message" in failure.describe_exit(3)


def files(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_memory_of_cgroup_version_2(tmp_path):
    files(tmp_path, memory__max="17179869184\n", memory__peak="17179869184\n")
    files(tmp_path, memory__events="low 0\noom 1\noom_kill 2\n")
    assert host_memory.describe(tmp_path) == (
        "host memory: peak 16.0 GiB, limit 16.0 GiB, the kernel's out-of-memory killer ended 2 process(es)"
    )


def test_memory_of_cgroup_version_1(tmp_path):
    folder = files(
        tmp_path / "memory", memory__limit_in_bytes="8589934592\n", memory__oom_control="oom_kill 0\n"
    )
    files(folder, memory__max_usage_in_bytes="4294967296\n")
    assert host_memory.describe(tmp_path) == "host memory: peak 4.0 GiB, limit 8.0 GiB"


def test_memory_without_limit_or_without_files(tmp_path):
    assert host_memory.describe(tmp_path) is None
    files(tmp_path, memory__max="max\n", memory__events="oom_kill 0\n")
    assert host_memory.describe(tmp_path) == "host memory: no limit is set"
    files(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712\n")
    (tmp_path / "memory.events").unlink()
    assert host_memory.describe(tmp_path) == "host memory: no limit is set"


def test_of_several_processes_the_first_cause_stays(tmp_path):
    path = tmp_path / "failure"
    lost = failure.describe(raised(RuntimeError("[gloo] Connection closed by peer")), "process 1 of 2")
    exited = failure.describe_exit(1, "process 1 of 2")
    for vague in (lost, exited):
        failure.write(path, vague)
        failure.write_first(path, exited)
        assert path.read_text() == vague
        failure.write_first(path, "ClientError: bad picture")
        assert path.read_text() == "ClientError: bad picture"
        failure.write_first(path, lost)
        failure.write_first(path, "AlgorithmError: KeyError: later")
        assert path.read_text() == "ClientError: bad picture"
