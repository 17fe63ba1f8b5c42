"""Samples to EMF lines: every value arrives, within every limit, however many GPUs."""

import json
import random
from collections import defaultdict

import pytest

import emf_validator
from metrics import emf
from metrics.sample import GpuSample

DIMENSIONS = {"Project": "surface-normals", "JobName": "j" * 63, "Host": "algo-1"}
MINUTE = 1_790_000_040_000


def awkward(generator: random.Random, gpu: int) -> GpuSample:
    """A sample with figures missing, at the ends of their ranges, or with many digits."""

    def maybe(*values: float) -> float | None:
        return generator.choice([None, *values])

    return GpuSample(
        gpu,
        utilization_percent=maybe(0, 100, generator.randrange(101)),
        memory_used_bytes=maybe(0, 2**64 - 1, generator.randrange(2**37)),
        memory_total_bytes=maybe(0, 2**64 - 1, 150_754_820_096),
        power_watts=maybe(0.0, 4294967.295, generator.random() * 1000),
        temperature_celsius=maybe(0, 2**32 - 1, generator.randrange(100)),
        lost=generator.random() < 0.01,
    )


def expected(sample: GpuSample) -> dict[str, float]:
    figures: dict[str, float | None] = {
        "GpuUtilization": sample.utilization_percent,
        "GpuPowerWatts": sample.power_watts,
        "GpuTemperatureCelsius": sample.temperature_celsius,
        "GpuMemoryUsedPercent": None,
        "GpuLost": 1 if sample.lost else None,
    }
    if sample.memory_used_bytes is not None and sample.memory_total_bytes:
        figures["GpuMemoryUsedPercent"] = sample.memory_used_bytes / sample.memory_total_bytes * 100
    return {name: value for name, value in figures.items() if value is not None}


@pytest.mark.parametrize("gpus", range(1, 17))
@pytest.mark.parametrize("name_characters", [1, 1000])
def test_every_value_arrives_in_lines_within_the_limits(gpus: int, name_characters: int) -> None:
    generator = random.Random(gpus)
    dimensions = {**DIMENSIONS, "Long": "x" * name_characters, "Longer": "y" * name_characters}
    samples = [awkward(generator, gpu) for _ in range(60) for gpu in range(gpus)]
    emf.check("training", dimensions)
    lines = list(emf.lines(samples, phase="training", dimensions=dimensions, timestamp_milliseconds=MINUTE))

    arrived: dict[tuple[int | None, str, tuple[str, ...]], list[float]] = defaultdict(list)
    for line in lines:
        for datum in emf_validator.read(line):
            assert datum.timestamp_milliseconds == MINUTE
            arrived[datum.gpu, datum.name, tuple(datum.dimensions)] += datum.values
    sent: dict[tuple[int | None, str, tuple[str, ...]], list[float]] = defaultdict(list)
    for sample in samples:
        for name, value in expected(sample).items():
            sent[sample.gpu, name, ("Project", "Phase")].append(value)
            sent[sample.gpu, name, tuple(dimensions)].append(value)
    assert arrived.keys() == sent.keys()
    for key, values in sent.items():
        assert arrived[key] == pytest.approx(values, abs=0.051), key


def test_an_ordinary_minute_is_one_line_per_gpu() -> None:
    samples = [GpuSample(gpu, 100, 2**37, 2**38, 1234.56, 100) for _ in range(60) for gpu in range(8)]
    lines = list(emf.lines(samples, phase="training", dimensions=DIMENSIONS, timestamp_milliseconds=MINUTE))
    assert [json.loads(line)["Gpu"] for line in lines] == list(range(8))


def test_more_samples_than_an_array_may_hold_are_split() -> None:
    samples = [GpuSample(0, utilization_percent=number % 10) for number in range(250)]
    lines = list(emf.lines(samples, phase="training", dimensions=DIMENSIONS, timestamp_milliseconds=MINUTE))
    values = [value for line in lines for value in json.loads(line)["GpuUtilization"]]
    assert values == [number % 10 for number in range(250)]
    assert all(emf_validator.read(line) for line in lines)


def test_a_series_is_not_made_per_gpu() -> None:
    samples = [GpuSample(gpu, utilization_percent=gpu) for gpu in range(4)]
    lines = list(emf.lines(samples, phase="serving", dimensions=DIMENSIONS, timestamp_milliseconds=MINUTE))
    data = [datum for line in lines for datum in emf_validator.read(line)]
    assert [datum.dimensions for datum in data] == [
        {"Project": "surface-normals", "Phase": "serving"},
        DIMENSIONS,
    ] * 4
    assert {datum.namespace for datum in data} == {emf.NAMESPACE}


def test_unknown_is_absent() -> None:
    samples = [GpuSample(0, utilization_percent=0), GpuSample(0)]
    (line,) = emf.lines(samples, phase="training", dimensions=DIMENSIONS, timestamp_milliseconds=MINUTE)
    document = json.loads(line)
    assert document["GpuUtilization"] == [0]
    assert [name for name in document if name.startswith("Gpu")] == ["Gpu", "GpuUtilization"]
    nothing = [GpuSample(0), GpuSample(0)]
    assert (
        list(emf.lines(nothing, phase="training", dimensions=DIMENSIONS, timestamp_milliseconds=MINUTE)) == []
    )


@pytest.mark.parametrize(
    ("dimensions", "named"),
    [
        ({"JobName": "j"}, "Project"),
        ({"Project": ""}, "Project"),
        ({"Project": " "}, "Project"),
        ({"Project": "p", "Endpoint": "Zürich"}, "Endpoint"),
        ({"Project": "p", "Endpoint": "a\nb"}, "Endpoint"),
        ({"Project": "p", "Endpoint": "e" * 1025}, "Endpoint"),
        ({"Project": "p", "n" * 256: "v"}, "nnn"),
        ({"Project": "p"} | {f"D{number}": "v" for number in range(30)}, "31 dimensions"),
        ({"Project": "p"} | {f"D{number}": "v" * 1000 for number in range(4)}, "too long"),
    ],
)
def test_what_cloudwatch_refuses_is_refused_by_name(dimensions: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        emf.check("training", dimensions)
