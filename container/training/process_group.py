"""Around a rank's training, where several processes train together: torch.distributed's default process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from training.environment import Place


@contextmanager
def process_group(place: Place, timeout_seconds: float) -> Iterator[None]:
    """The group, made from the variables of torch's launcher: NCCL for tensors on GPUs, gloo for those on the CPU.

    A process that the others wait for longer than `timeout_seconds` ends their wait with an error. None
    leaves before all are done: the first one may still be writing the model.
    """
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    yield
    distributed.all_reduce(torch.zeros(1))
    distributed.destroy_process_group()  # not after an error: it would wait for processes that are gone
