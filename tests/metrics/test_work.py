"""What trainer and workers tell: nothing is lost without being counted, and each in the minute that it belongs to."""

import fcntl
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

import emf_validator
import nvml
from metrics.work import Message, WorkSender, listen, messages, values
from running_agent import Agent, wait_until

Start = Callable[..., Agent]


@pytest.fixture
def address() -> str:
    return f"test-{secrets.token_hex(8)}"


class Listener:
    """The agent's end, which reads when it is told to."""

    def __init__(self, address: str) -> None:
        self._receiver = listen(address)
        self._receiver.settimeout(0.2)
        self._messages = messages(self._receiver)

    def waiting(self) -> list[Message]:
        """All that have come, at once."""
        found = []
        try:
            while True:
                found.append(next(self._messages))
        except TimeoutError:
            self._messages = messages(self._receiver)
            return found

    def close(self) -> None:
        self._receiver.close()


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    with closing(Listener(address)) as one:
        yield one


@pytest.fixture
def sender(address: str) -> Iterator[WorkSender]:
    with closing(WorkSender(address)) as one:
        yield one


def test_a_full_queue_drops_counts_and_recovers(sender: WorkSender, listener: Listener) -> None:
    begun = time.monotonic()
    for number in range(200):
        sender.send(requests=number)
    assert time.monotonic() - begun < 5  # it did not wait for anybody
    first = listener.waiting()
    assert 1 <= len(first) < 200
    assert [message["requests"] for message in first] == list(range(len(first)))
    sender.send(requests=200)
    sender.send(requests=201)
    last = listener.waiting()
    assert last == [{"requests": 200, "dropped": 200 - len(first)}, {"requests": 201}]


def test_what_was_dropped_last_is_told_at_the_end(sender: WorkSender, listener: Listener) -> None:
    for number in range(50):
        sender.send(requests=number)
    first = listener.waiting()
    sender.close()
    (last,) = listener.waiting()
    assert last == {"dropped": 50 - len(first)}
    sender.send(requests=1)  # and then nothing more, without a word
    assert listener.waiting() == []


def test_a_sender_without_anybody_to_hear_it_drops_nothing(address: str, sender: WorkSender) -> None:
    sender.send(requests=1)
    with closing(Listener(address)) as listener:
        sender.send(requests=2)
        assert listener.waiting() == [{"requests": 2}]


def test_many_figures_go_in_as_few_messages_as_hold_them(sender: WorkSender, listener: Listener) -> None:
    figures = {f"drift_psi:{'x' * 50}{number}": 0.12345 for number in range(90)}
    sender.send(**figures)
    received = listener.waiting()
    assert {name: value for message in received for name, value in message.items()} == figures
    assert len(received) == 4  # of 6,750 bytes


def test_what_is_no_number_is_passed_over(sender: WorkSender, listener: Listener) -> None:
    sender.send(a=1, b=float("nan"), c="text", d=True, e=[1, 2.5], f=[1, "x"], g=[float("inf")])  # type: ignore[arg-type]
    sender.send(a=2)
    assert listener.waiting() == [{"a": 1, "e": [1, 2.5]}, {"a": 2}]
    assert values({"a": 1, "e": [1, 2.5]}, "a") == (1,)
    assert values({"a": 1, "e": [1, 2.5]}, "e") == [1, 2.5]
    assert values({}, "a") == ()


def sums(lines: list[bytes], name: str) -> dict[int, list[float]]:
    """A host's figure by the time of its period."""
    found: dict[int, list[float]] = defaultdict(list)
    for datum in (datum for line in lines for datum in emf_validator.read(line)):
        if datum.name == name and "Host" in datum.dimensions:
            found[datum.timestamp_milliseconds] += datum.values
    return found


def test_after_standard_output_stood_still_each_period_is_told_once_and_whole(
    start: Start, driver: Path, address: str
) -> None:
    """Four seconds nobody reads the pipe: what came meanwhile is in the periods in which it came."""
    nvml.turn(driver, {"gpus": 8})
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    agent = start(f"--work-address={address}", "--sink=emf", out=write_end)
    os.close(write_end)
    received: list[bytes] = []
    with closing(WorkSender(address)) as sender:
        wait_until(lambda: f"@{address}" in Path("/proc/net/unix").read_text())
        begun, sent = time.time(), 0
        while time.time() < begun + 4:
            sender.send(requests=1)
            sent += 1
            time.sleep(0.02)
        reader = Thread(target=lambda: received.extend(iter(lambda: os.read(read_end, 4096), b"")))
        reader.start()
        time.sleep(1)
    assert agent.finish() == 0
    reader.join(10)
    os.close(read_end)
    lines = b"".join(received).splitlines(keepends=True)
    requests = sums(lines, "Requests")
    assert (
        sum(sum(told) for told in requests.values())
        + sum(sum(told) for told in sums(lines, "DroppedWorkFigures").values())
        == sent
    )
    assert all(len(told) == 1 for told in requests.values())
    assert list(requests) == sorted(requests)
    # Eight periods of half a second, and none of them has the requests of the others.
    assert len(requests) >= 5
    assert max(told[0] for told in requests.values()) < sent / 2


def test_what_had_been_sent_when_the_end_came_is_told(start: Start, address: str) -> None:
    agent = start(f"--work-address={address}", "--publish-seconds=1e6")
    with closing(WorkSender(address)) as sender:
        wait_until(lambda: f"@{address}" in Path("/proc/net/unix").read_text())
        for _ in range(5):
            sender.send(requests=1)
    assert agent.finish() == 0
    assert list(sums(agent.lines(), "Requests").values()) == [[5]]


def test_a_burst_beyond_the_queue_is_told_as_dropped(start: Start, address: str) -> None:
    """Whoever is stopped hears nothing, and says so when it goes on."""
    agent = start(f"--work-address={address}", "--publish-seconds=1e6")
    with closing(WorkSender(address)) as sender:
        wait_until(lambda: f"@{address}" in Path("/proc/net/unix").read_text())
        os.kill(agent.process.pid, 19)
        for _ in range(100):
            sender.send(requests=1)
        os.kill(agent.process.pid, 18)
        time.sleep(0.5)
    assert agent.finish() == 0
    (told,), (lost,) = (sums(agent.lines(), name).values() for name in ("Requests", "DroppedWorkFigures"))
    assert lost[0] > 0
    assert told[0] + lost[0] == 100


def test_drift_is_in_the_snapshot_of_a_host_without_a_gpu_too(
    start: Start, driver: Path, address: str, sender: WorkSender
) -> None:
    nvml.turn(driver, {"gpus": 0})
    snapshot = driver / "gpus.prom"
    agent = start(f"--work-address={address}", f"--snapshot={snapshot}")
    wait_until(lambda: f"@{address}" in Path("/proc/net/unix").read_text())
    sender.send(**{"drift_psi:size": 0.31, "drift_ks:size": 0.2})
    wait_until(snapshot.exists)
    assert 'inference_drift_psi{figure="size"} 0.31' in snapshot.read_text().splitlines()
    agent.finish()
    assert not snapshot.exists()
