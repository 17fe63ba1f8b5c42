"""How many workers with how many threads: what the container may really use, not what the host has."""

from dataclasses import dataclass

from cores import available_cores
from serving.settings import Settings, visible_gpus


@dataclass(frozen=True)
class Capacity:
    """What the server has, and how it is shared out."""

    cores: int
    gpus: int
    workers: int
    """One for each GPU; one on a CPU, where all cores on one picture give the shortest answer time."""
    threads: int
    """Of each worker's compute on the CPU."""

    @classmethod
    def of(cls, settings: Settings) -> "Capacity":
        """What is here, except where the settings say otherwise."""
        cores, gpus = available_cores(), len(visible_gpus())
        workers = settings.workers or max(1, gpus)
        return cls(cores, gpus, workers, settings.threads or max(1, cores // workers))

    def __str__(self) -> str:
        """The line for the log."""
        return (
            f"capacity: {self.cores} cores and {self.gpus or 'no'} GPUs for {self.workers} workers "
            f"(SAGEMAKER_MODEL_SERVER_WORKERS) with {self.threads} threads each (OMP_NUM_THREADS)"
        )
