"""The README's table of dollars: series, bytes and calls of a usual minute, and the alarms that there are."""

import random
import re
from pathlib import Path

import pytest

from metrics import emf, put_metric_data
from metrics.catalogue import Series
from metrics.cloudwatch import LEVELS, Identity
from metrics.period import series_of
from metrics.sample import GpuSample
from surface_normals.drift_figures import FIGURES
from watch_alarms import Watched, alarms

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
TABLE = README.partition("## GPU metrics")[2]
USD_PER_SERIES, USD_PER_GIGABYTE, USD_PER_CALL = 0.30, 0.50, 0.01 / 1000
USD_PER_ALARM, USD_PER_DASHBOARD = 0.10, 3.00
MINUTES_OF_A_MONTH = 730 * 60
HOSTS = {
    "serving": {"Project": "surface-normals", "Endpoint": "my-normals", "Variant": "AllTraffic"},
    "training": {
        "Project": "surface-normals",
        "JobName": "surface-normals-20270101-120000",
        "Host": "algo-1",
    },
}
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


def busy_minute(gpus: int, work: dict, reports: int, once: dict) -> list[Series]:
    """A minute with so many reports, in which nothing stays as it was."""
    draw = random.Random(0)
    samples = [
        GpuSample(
            gpu,
            utilization_percent=draw.randint(60, 100),
            memory_used_bytes=draw.randint(10, 11) << 30,
            memory_total_bytes=24 << 30,
            power_watts=draw.uniform(150, 300),
            temperature_celsius=draw.randint(60, 70) if second % 10 == 0 else None,
            throttled=False,
            power_capped=draw.random() < 0.5,
            energy_joules=250.0,
            errors=0 if second == 0 else None,
        )
        for second in range(60)
        for gpu in range(gpus)
    ]
    told = [{name: draw.uniform(1, 100) for name in work} for _ in range(reports)]
    return series_of(samples, [*told, once], seconds=60, num_hosts=1)


def readmes(row: str) -> list[float]:
    """The two columns' dollars of a row of the table."""
    [cells] = [line.split("|")[-3:-1] for line in TABLE.splitlines() if row in line]
    return [float(re.match(r"\d+\.\d+", cell.strip())[0]) for cell in cells]


def test_what_the_lines_and_the_calls_cost() -> None:
    drift = {name: value for name, value in OF_A_SERVER.items() if ":" in name}
    minutes = {
        "serving": busy_minute(1, {name: 0 for name in OF_A_SERVER if ":" not in name}, 60, drift),
        "training": busy_minute(8, OF_A_TRAINING, 12, {}),
    }
    lines, calls = [], []
    for phase, series in minutes.items():
        identity = Identity(phase, HOSTS[phase])
        size = sum(map(len, emf.lines(series, identity, 1_800_000_000_000)))
        lines.append(size * MINUTES_OF_A_MONTH * USD_PER_GIGABYTE / 1e9)
        number = len(list(put_metric_data.calls(series, 1_800_000_000_000, identity)))
        calls.append(number * MINUTES_OF_A_MONTH * USD_PER_CALL)
    assert readmes("| `METRICS_SINK` | `emf`") == pytest.approx(lines, rel=0.15)
    assert readmes("| | `putmetricdata` |") == pytest.approx(calls, abs=0.005)


def test_what_the_dashboard_and_its_alarms_cost() -> None:
    costs = []
    for endpoint, job in (("my-normals", None), (None, "job-1")):
        watched = Watched("surface-normals", endpoint, "AllTraffic", job, "host")
        number = len(alarms(watched, None, queue_milliseconds=200, request_milliseconds=2000))
        costs.append(number * USD_PER_ALARM + USD_PER_DASHBOARD)
    assert readmes("| `dashboard.py` |") == pytest.approx(costs)
