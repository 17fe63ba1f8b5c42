"""Where several processes train one network: who leads, what all agree on, how gradients become one batch's.

The launcher of the job leaves torch's default process group ready. Without one there is one
process, and everything here is then the plain thing itself. Each method that talks to the others
must be called by every rank, and as often by each.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")
LEADER = 0


class Ranks:
    """All processes of the job, and this one's place among them."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
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

    def weight(self, valid: Tensor) -> Tensor | float:
        """What to multiply this rank's loss with, a mean over its `valid` pixels, for the batch of all ranks.

        DistributedDataParallel takes the plain mean of the gradients; the loss of one large batch pools its pixels,
        so a rank with more of them must count for more.
        """
        if self.count == 1:
            return 1.0
        own = valid.sum().float()
        total = own.clone()
        dist.all_reduce(total)
        return self.count * own / total.clamp(min=1)

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network to call in training: its backward pass averages the gradients over the ranks."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def gradients_apart(self, parallel: nn.Module, *, apart: bool) -> AbstractContextManager[None]:
        """While `apart`, backward passes through `parallel` keep each rank's gradients to itself, to be added to."""
        if apart and isinstance(parallel, DistributedDataParallel):
            context: AbstractContextManager[None] = parallel.no_sync()
            return context
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

        They hear from the leader each time it asks whether to stop: so a stop of any rank is one of
        all, a leader that died is noticed, and work that lasts longer than the collective timeout is not.
        """
        if self.count == 1:
            return work(should_stop)
        if self.is_leader:
            result = work(lambda: self.any(should_stop(), True)[0])
            self.any(should_stop(), False)
            return result
        while self.any(should_stop(), False)[1]:
            pass
        return None


def share_of(keys: list[Any], rank: int, count: int) -> list[Any]:
    """The part of one batch that falls to `rank`: as even as it goes, and all parts together the batch."""
    size, larger = divmod(len(keys), count)
    first = rank * size + min(rank, larger)
    return keys[first : first + size + (rank < larger)]


def first_of(found: Iterable[tuple[int, str] | None]) -> tuple[int, str] | None:
    """The earliest of what the ranks found, as (step, text)."""
    return min((item for item in found if item is not None), default=None)
