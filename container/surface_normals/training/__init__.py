"""The training half of the model: `Config` and `train`, as the seam asks.

torch is imported when `train` is called, not before: whoever only checks hyperparameters need not
wait for it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from surface_normals.training.config import Config

__all__ = ["DISTRIBUTED", "Config", "train"]

DISTRIBUTED = True
"""`train` may run in several processes together, one for each GPU."""


def train(
    config: Config,
    *,
    channels: Mapping[str, Path],
    model_dir: Path,
    output_dir: Path,
    checkpoint_dir: Path,
    report: Callable[[str, float, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train on channel `train`, measure on channel `validation`; see `loop.run`."""
    from surface_normals.training import loop

    loop.run(
        config,
        channels=channels,
        model_dir=model_dir,
        output_dir=output_dir,
        checkpoint_dir=checkpoint_dir,
        report=report,
        should_stop=should_stop,
    )
