"""For a measurement: samples one after the other, read ahead by worker processes."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from surface_normals.training.dataset import PictureDataset, Sample


class _Samples(Dataset[Sample | ValueError]):
    """A damaged sample is returned as its ValueError: torch would wrap the one clear line into a traceback."""

    def __init__(self, dataset: PictureDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | ValueError:
        try:
            return self.dataset[index]
        except ValueError as error:
            return error


def read_ahead(dataset: PictureDataset, indices: Sequence[int], workers: int) -> Iterator[Sample]:
    """These samples in this order, whatever the number of `workers`; 0 reads in this process.

    The arrays come through pipes, so that shared memory need not hold them. Raises ValueError for a damaged sample.
    """
    loader = DataLoader(
        _Samples(dataset),
        batch_size=None,
        sampler=indices,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(indices)),
    )
    for sample in loader:
        if isinstance(sample, ValueError):
            raise sample
        yield sample


def _as_it_is(sample: Any) -> Any:
    return sample
