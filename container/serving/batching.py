"""Between a request's thread and the model: what waits goes through together, in the model's thread.

    submit -> waiting -> take (of one group, at most max_batch) -> predict -> each request's Future

Nothing waits for a batch to fill: the model takes what came while it was busy. What a batch does to
its worst input, it does to no other: a batch that fails is halved and tried again.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)

NO_MEMORY = ("out of memory", "allocate memory", "bad allocation", "bad_alloc")
"""What CUDA, torch's allocator on the CPU, and ONNX Runtime say."""


ROUNDING = 1e-6
"""Shares of the memory add up to 1 but for this."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory for an input, or a batch of them: nothing is broken."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


def shape_of(value: Any) -> Any:
    """The usual group: inputs of one shape can be stacked; those without a shape are alike."""
    return getattr(value, "shape", None)


class Output(Future[Any]):
    """Where an input's output will be."""

    unwanted = False

    def give_up(self) -> None:
        """Nobody waits for it any more: if the model has not begun, it is spared the work, else it is told."""
        if not self.cancel():
            self.unwanted = True


@dataclass(eq=False, slots=True)
class Job:
    """One decoded input, and where its output goes. One whose output is given up is dropped."""

    input: Any
    group: Hashable
    output: Output = field(default_factory=Output)
    queued: float = field(default_factory=time.monotonic)


class Batcher:
    """Hands inputs to `predict`, which takes a list of inputs of one group and returns as many outputs.

    Its second argument tells whether anybody still waits for any of them; where not, it may raise what it likes.
    `group_of` tells an input's group, `most_of` how many like it there is memory for; `queue_changed` is told how
    many inputs wait (whoever submits bounds that number), `waited` how many seconds each of them did.
    """

    def __init__(
        self,
        predict: Callable[[list[Any], Callable[[], bool]], list[Any]],
        *,
        max_batch: int,
        queue_changed: Callable[[int], None],
        waited: Callable[[float], None],
        group_of: Callable[[Any], Hashable] = shape_of,
        most_of: Callable[[Any], float] = lambda value: math.inf,
    ) -> None:
        self._model = predict
        self.max_batch = max_batch
        self._group_of = group_of
        self._most_of = most_of
        self._ceilings: dict[Hashable, int] = {}  # of the groups for which max_batch is too much
        self._queue_changed = queue_changed
        self._waited = waited
        self._waiting: deque[Job] = deque()
        self._arrived = threading.Condition()
        self._began: dict[int, float] = {}  # of each thread that predicts
        self._held: dict[int, float] = {}  # likewise, the share of the memory that its batch may take

    def submit(self, value: Any) -> Output:
        """Queue one input; its output, or what `predict` raised for it alone, is the future's.

        Raises MemoryError where there is no room for it even alone.
        """
        if self._most_of(value) < 1:
            raise MemoryError("no room for this input, even alone")
        job = Job(value, self._group_of(value))
        with self._arrived:
            self._waiting.append(job)
            self._queue_changed(len(self._waiting))
            self._arrived.notify()
        return job.output

    @property
    def running_seconds(self) -> float:
        """For how long the model has been at what it is doing now, the longest of its threads; 0 when it waits."""
        now = time.monotonic()
        return now - min(self._began.copy().values(), default=now)

    def run(self) -> None:
        """Predict for ever, in the calling thread: one, or as many as the model may be called in at once."""
        thread = threading.get_ident()
        while True:
            jobs = [job for job in self._take() if job.output.set_running_or_notify_cancel()]
            self._began[thread] = now = time.monotonic()
            for job in jobs:
                self._waited(now - job.queued)
            self._predict(jobs)
            del self._began[thread]
            with self._arrived:
                del self._held[thread]
                self._arrived.notify_all()  # who waits for the memory

    def _take(self) -> list[Job]:
        """Wait for an input; return it, the oldest, and the next ones of its group."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting and self._room() >= 1)
            group, room = self._waiting[0].group, self._room()
            limit = min(self._ceilings.get(group, self.max_batch), room)
            jobs = [job for job in self._waiting if job.group == group][: int(limit)]
            self._held[threading.get_ident()] = len(jobs) / self._most_of(jobs[0].input)
            for job in jobs:
                self._waiting.remove(job)
            self._queue_changed(len(self._waiting))
        return jobs

    def _room(self) -> float:
        """How many inputs like the oldest there is memory for, beside what other threads predict."""
        return (1 - sum(self._held.values())) * self._most_of(self._waiting[0].input) + ROUNDING

    def _predict(self, jobs: list[Job]) -> None:
        """Give each job its output. A batch that fails is halved until the guilty ones are alone."""
        if not jobs:
            return
        try:
            outputs = self._model(
                [job.input for job in jobs], lambda: not all(job.output.unwanted for job in jobs)
            )
            if len(outputs) != len(jobs):
                raise RuntimeError(f"predict returned {len(outputs)} outputs for {len(jobs)} inputs")
        except Exception as error:  # noqa: BLE001 (a model may raise anything; the request's thread sorts it)
            if len(jobs) == 1:
                jobs[0].output.set_exception(error)
                return
            _log.warning(
                "a batch of %d failed (%s: %s): trying halves", len(jobs), type(error).__name__, error
            )
            middle = len(jobs) // 2
            if is_out_of_memory(error):
                self._ceilings[jobs[0].group] = middle
                _log.warning(
                    "not enough memory for %d inputs of %s together: at most %d from now on",
                    len(jobs),
                    jobs[0].group,
                    middle,
                )
            self._predict(jobs[:middle])
            self._predict(jobs[middle:])
            return
        for job, output in zip(jobs, outputs, strict=True):
            job.output.set_result(output)
