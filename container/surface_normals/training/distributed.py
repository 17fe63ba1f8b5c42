"""Where several processes train one network: who leads, what all agree on, how gradients become one batch's.

The launcher of the job leaves torch's default process group ready. Without one there is one
process, and everything here is then the plain thing itself. Each method that talks to the others
must be called by every rank, and as often by each.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")
LEADER = 0
SECONDS_BETWEEN_SIGNS = 1.0
"""Of life, while the leader works alone."""


class Ranks:
    """All processes of the job, and this one's place among them."""

    def __init__(self, *, alone: bool = False) -> None:
        """`alone`: as if this process were the only one."""
        several = dist.is_available() and dist.is_initialized() and not alone
        self.rank: int = dist.get_rank() if several else LEADER
        self.count: int = dist.get_world_size() if several else 1

    @property
    def is_leader(self) -> bool:
        """The one that measures, reports, and writes checkpoints and the model."""
        return self.rank == LEADER

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag as all ranks see it: true when it is true on one of them."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, element by element."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.count
        return values

    def gather(self, value: Any) -> list[Any]:
        """What each rank has to say, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], Result]) -> list[Result | None]:
        """What `work()` gives on each rank, in their order. A ValueError of one is raised on all."""
        result, own_error = None, None
        try:
            result = work()
        except ValueError as error:
            own_error = error
        found = self.gather((result, str(own_error) if own_error else None))
        if own_error:
            raise own_error
        for _, problem in found:
            if problem is not None:
                raise ValueError(problem)
        return [result for result, _ in found]

    def beside(self, folder: Path) -> int:
        """How many ranks, this one among them, have the same `folder`: those of its host, or of its container."""
        if self.count == 1:
            return 1
        mount = (Path("/proc/sys/kernel/random/boot_id").read_text(), folder.stat().st_dev)
        return self.gather(mount).count(mount)

    def weight(self, valid: Tensor) -> Tensor | float:
        """What to multiply this rank's loss with, a mean over its `valid` pixels, for the batch of all ranks.

        DistributedDataParallel and FSDP take the plain mean of the gradients; the loss of one large batch
        pools its pixels, so a rank with more of them must count for more.
        """
        if self.count == 1:
            return 1.0
        own = valid.sum().float()
        total = own.clone()
        dist.all_reduce(total)
        return self.count * own / total.clamp(min=1)

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network to call in training: its backward pass averages the gradients over the ranks."""
        if self.count == 1 or isinstance(network, FSDPModule):
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def gradients_apart(self, parallel: nn.Module, *, apart: bool) -> AbstractContextManager[None]:
        """While `apart`, backward passes through `parallel` keep each rank's gradients to itself, to be added to."""
        if apart and isinstance(parallel, DistributedDataParallel):
            context: AbstractContextManager[None] = parallel.no_sync()
            return context
        if isinstance(parallel, FSDPModule):
            parallel.set_requires_gradient_sync(not apart)
        return nullcontext()

    def batch_norms(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with statistics over the batch of all ranks, where torch can: on GPUs."""
        if self.count == 1 or device.type != "cuda":
            return network
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted

    def from_leader(self, tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The leader's tensors, on the CPU, by name. The others pass None."""
        outline = [{name: (value.shape, value.dtype) for name, value in (tensors or {}).items()}]
        dist.broadcast_object_list(outline, LEADER)
        if tensors is None:
            tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in outline[0].items()}
        for name in outline[0]:
            dist.broadcast(tensors[name], LEADER)
        return tensors

    def leader_alone(
        self, work: Callable[[Callable[[], bool]], Result], should_stop: Callable[[], bool]
    ) -> Result | None:
        """The leader's `work(should_stop)`; None on the others, which wait for its end.

        The leader's second thread tells them every second that it is alive: so work may last longer than the
        collective timeout, a leader that died is noticed, and a stop of any rank is one of all.
        """
        if self.count == 1:
            return work(should_stop)
        if not self.is_leader:
            while self.any(should_stop(), False)[1]:
                pass
            return None
        heard, done = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1, "alive") as pool:
            told = pool.submit(self._tell_alive, should_stop, heard, done)
            try:
                result = work(lambda: should_stop() or heard.is_set() or told.done())
            finally:
                done.set()
            told.result()  # raises where another rank is gone
        return result

    def _tell_alive(
        self, should_stop: Callable[[], bool], heard: threading.Event, done: threading.Event
    ) -> None:
        while not done.wait(SECONDS_BETWEEN_SIGNS):
            if self.any(should_stop(), True)[0]:
                heard.set()
        self.any(should_stop(), False)


def share_of(keys: list[Any], place: int, count: int) -> list[Any]:
    """The part at `place` of `count` parts: as even as it goes, and all parts together the whole."""
    size, larger = divmod(len(keys), count)
    first = place * size + min(place, larger)
    return keys[first : first + size + (place < larger)]


def first_of(found: Iterable[tuple[int, str] | None]) -> tuple[int, str] | None:
    """The earliest of what the ranks found, as (step, text)."""
    return min((item for item in found if item is not None), default=None)
