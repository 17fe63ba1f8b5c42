"""The README's table of dollars: as many series as a usual minute really makes."""

from pathlib import Path

import pytest

from metrics.catalogue import Series
from metrics.cloudwatch import LEVELS, Identity
from metrics.period import series_of
from metrics.sample import GpuSample
from surface_normals.drift_figures import FIGURES

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
USD_PER_SERIES = 0.30
OF_A_SERVER = {
    "requests": 5, "errors": 0, "request_milliseconds": 1, "decode_milliseconds": 1, "queue_milliseconds": 1,
    "predict_milliseconds": 1, "encode_milliseconds": 1, "batch_size": 1, "in_flight": 1, "predict_seconds": 1,
    **{f"{distance}:{figure}": 0.1 for distance in ("drift_psi", "drift_ks") for figure in FIGURES},
}  # fmt: skip
OF_A_TRAINING = {"images_per_second": 1, "data_wait_percent": 1, "step_milliseconds": 1}


def minute(gpus: int, work: dict, usd_per_hour: float | None = None) -> list[Series]:
    samples = [
        GpuSample(gpu, 50, 1, 2, 100, 40, throttled=False, power_capped=False, energy_joules=1, errors=0)
        for gpu in range(gpus)
    ]
    return series_of(samples, [work], seconds=60, num_hosts=1, usd_per_hour=usd_per_hour)


def count(series: list[Series], phase: str, level: str) -> int:
    identity = Identity(phase, {"Project": "normals", "Host": "a"}, level)
    return len({(one.name, tuple(names.items())) for one in series for names in identity.sets(one.part)})


@pytest.mark.parametrize("level", LEVELS)
def test_the_series_of_each_level(level: str) -> None:
    counts = [
        count(minute(1, OF_A_SERVER), "serving", level),
        count(minute(8, OF_A_TRAINING), "training", level),
    ]
    cells = " | ".join(f"{number * USD_PER_SERIES:.2f} ({number})" for number in counts)
    assert f"| `{level}` | {cells} |" in README


def test_what_a_price_adds() -> None:
    for gpus, work, phase in ((1, OF_A_SERVER, "serving"), (8, OF_A_TRAINING, "training")):
        more = count(minute(gpus, work, 2.0), phase, "host") - count(minute(gpus, work), phase, "host")
        assert f"{more * USD_PER_SERIES:.2f} ({more}) |" in README
