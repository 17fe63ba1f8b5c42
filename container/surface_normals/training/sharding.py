"""Where a network is too large for one GPU: every rank keeps a part of each weight, by torch's own FSDP2.

Checkpoints and models know nothing of it: they hold whole tensors under the same names either way.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

SMALLEST_UNIT = 50_000
"""Parameters of a block that is gathered by itself; smaller ones come with the whole, as messages have a price."""


def shard(*networks: nn.Module, device_type: str, num_ranks: int) -> None:
    """Leave this rank its part of the networks, on its device, whither they go block by block.

    In training one block's weights are there at a time, and besides those that belong to none.
    """
    mesh = init_device_mesh(device_type, (num_ranks,))
    for network in networks:
        for block in blocks(network):
            left = [parameter for parameter in block.parameters() if not isinstance(parameter, DTensor)]
            if sum(parameter.numel() for parameter in left) >= SMALLEST_UNIT:
                fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of its sequences and lists, which are called one after the other, inner ones first.

    Single layers are among them only where they are in no other member.
    """
    sequences = (nn.Sequential, nn.ModuleList)
    for child in network.children():
        inner = list(blocks(child))
        if isinstance(network, sequences) and not isinstance(child, sequences):
            yield from (block for block in inner if any(True for _ in block.children()))
            yield child
        else:
            yield from inner


def whole(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors by name, those that lie in parts made whole on the CPU; every rank must ask, and may `keep` none."""
    gathered = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor().cpu() if keep else tensor.full_tensor()
        if keep:
            gathered[name] = tensor
    return gathered


def part_of(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Of a whole tensor what belongs where `like` lies: this rank's part, or all of it."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
