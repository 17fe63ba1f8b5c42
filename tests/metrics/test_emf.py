"""Series to EMF lines: every value arrives, within every limit, however many GPUs."""

import json
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import emf_validator
from metrics import emf
from metrics.catalogue import METRICS, Metric, Part, Series
from metrics.cloudwatch import EMF_METRICS, NAMESPACE, Identity
from metrics.period import DRIFT_FIGURES, GPU_FIGURES

DIMENSIONS = {"Project": "surface-normals", "JobName": "j" * 63, "Host": "algo-1"}
IDENTITY = Identity("training", DIMENSIONS)
MINUTE = 1_790_000_040_000


def awkward(generator: random.Random) -> float:
    """A value at the ends of its range, or with many digits."""
    return generator.choice([0, 100, 2**32 - 1, 4294967.295, -1e-300, generator.random() * 1000])


@pytest.mark.parametrize("gpus", range(0, 17, 2))
@pytest.mark.parametrize("name_characters", [1, 1000])
@pytest.mark.parametrize("level", ["host", "gpu"])
def test_every_value_arrives_in_lines_within_the_limits(gpus: int, name_characters: int, level: str) -> None:
    generator = random.Random(gpus)
    dimensions = {**DIMENSIONS, "Long": "x" * name_characters, "Longer": "y" * name_characters}
    identity = Identity("training", dimensions, level)
    parts = {name: [None] for name in METRICS}
    parts |= {name: [Part.of_gpu(gpu) for gpu in range(gpus)] for name in GPU_FIGURES}
    parts |= {name: [Part("Figure", f"figure_{n}") for n in range(gpus)] for name in DRIFT_FIGURES.values()}
    series = [
        Series(name, tuple(awkward(generator) for _ in range(generator.choice([0, 1, 60, 250]))), part)
        for name, parts_of in parts.items()
        for part in parts_of
    ]
    emf.check(identity)
    arrived: dict[tuple[Part | None, str, tuple[str, ...]], list[float]] = defaultdict(list)
    for line in emf.lines(series, identity, MINUTE):
        for datum in emf_validator.read(line):
            assert datum.timestamp_milliseconds == MINUTE
            assert (datum.namespace, datum.unit) == (NAMESPACE, METRICS[datum.name].unit)
            part = Part(*datum.part) if datum.part else None
            arrived[part, datum.name, tuple(datum.dimensions)] += datum.values
    sent = {}
    for one in (one for one in series if one.values):
        of_part = [one.part.dimension] if level == "gpu" and one.part is not None else []
        sent[one.part, one.name, ("Project", "Phase")] = list(one.values)
        sent[one.part, one.name, (*dimensions, *of_part)] = list(one.values)
    assert arrived == sent


PARTS = st.one_of(
    st.none(), st.integers(0, 99).map(Part.of_gpu), st.from_regex(r"[A-Za-z_]{1,64}", fullmatch=True).map(
        lambda name: Part("Figure", name)
    )
)  # fmt: skip
SERIES = st.builds(
    Series,
    st.sampled_from(sorted(METRICS)),
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53), max_size=130
    ).map(tuple),
    PARTS,
)
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=900)


@settings(deadline=None, max_examples=40)
@given(
    series=st.lists(SERIES, max_size=40, unique_by=lambda one: (one.name, one.part)),
    dimensions=st.dictionaries(st.from_regex(r"[A-Z][a-z]{0,20}", fullmatch=True), WORDS, max_size=4),
    project=WORDS,
    level=st.sampled_from(["fleet", "host", "gpu"]),
)
def test_whatever_is_published_no_line_is_longer_than_a_pipe_takes_in_one_piece(
    series: list[Series], dimensions: dict[str, str], project: str, level: str
) -> None:
    identity = Identity("training", {**dimensions, "Project": project}, level, boot="0123abcd")
    try:
        emf.check(identity)
    except ValueError:
        return  # refused at the start, in one line
    arrived = 0
    for line in emf.lines(series, identity, MINUTE):
        assert len(line) <= 4096
        assert line.endswith(b"}\n")
        document = json.loads(line)
        arrived += sum(
            len(document[name["Name"]]) for name in document["_aws"]["CloudWatchMetrics"][0]["Metrics"]
        )
    assert arrived == sum(len(one.values) for one in series)


def test_a_line_may_be_as_long_as_a_pipe_takes_and_not_a_byte_longer() -> None:
    names = ("GpuUtilization", "GpuPowerWatts", "GpuMemoryUsedPercent", "GpuTemperatureCelsius", "GpuErrors")
    series = [Series(name, (345.6,) * 100, Part.of_gpu(0)) for name in names]
    lengths = []
    for characters in range(1, 800):
        identity = Identity("training", {"Project": "p" * characters}, "fleet")
        lines = list(emf.lines(series, identity, MINUTE))
        lengths.append([len(line) for line in lines])
        assert sum(len(datum.values) for line in lines for datum in emf_validator.read(line)) == 500
    assert max(map(max, lengths)) == 4096
    assert {len(of_one) for of_one in lengths} == {1, 2}


def test_a_line_has_at_most_100_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where more of them would fit into its bytes."""
    names = [f"{letter}{digit}" for letter in "abcdefghijk" for digit in "0123456789"][: EMF_METRICS + 1]
    for name in names:
        monkeypatch.setitem(METRICS, name, Metric("None", ""))  # type: ignore[arg-type]
    series = [Series(name, (1,)) for name in names]
    identity = Identity("t", {"Project": "p"}, "fleet")
    (fits,) = emf.lines(series[:EMF_METRICS], identity, MINUTE)
    one_more = len(fits) + len(fits) // EMF_METRICS
    assert one_more <= emf.LINE_BYTES
    lines = list(emf.lines(series, identity, MINUTE))
    assert sorted(datum.name for line in lines for datum in emf_validator.read(line)) == sorted(names)


def test_the_instances_of_an_endpoint_are_told_apart_beside_their_dimensions() -> None:
    identity = Identity("serving", {"Project": "p", "Endpoint": "e", "Variant": "v"}, boot="0123abcd")
    (line,) = emf.lines([Series("Requests", (5,))], identity, MINUTE)
    assert json.loads(line)["Boot"] == "0123abcd"
    assert not any("Boot" in datum.dimensions for datum in emf_validator.read(line))


def test_an_ordinary_minute_is_one_line_per_gpu() -> None:
    minute = {"GpuUtilization": 100, "GpuMemoryUsedPercent": 37.51, "GpuPowerWatts": 345.6}
    minute |= {"GpuThrottledPercent": 0, "GpuPowerCappedPercent": 100}
    series = [
        Series(name, (value,) * 60, Part.of_gpu(gpu)) for gpu in range(8) for name, value in minute.items()
    ]
    lines = list(emf.lines(series, IDENTITY, MINUTE))
    assert [json.loads(line)["Gpu"] for line in lines] == [str(gpu) for gpu in range(8)]


def test_the_level_says_which_series_are_made() -> None:
    series = [Series("SamplesPerSecond", (5,))]
    series += [
        Series("GpuUtilization", (1,), Part.of_gpu(0)),
        Series("DriftPsi", (1,), Part("Figure", "size")),
    ]
    fleet = {"Project": "surface-normals", "Phase": "training"}
    expected = {
        "fleet": [[fleet], [fleet], [fleet]],
        "host": [[fleet, DIMENSIONS], [fleet, DIMENSIONS], [fleet, DIMENSIONS]],
        "gpu": [
            [fleet, DIMENSIONS],
            [fleet, DIMENSIONS | {"Gpu": "0"}],
            [fleet, DIMENSIONS | {"Figure": "size"}],
        ],
    }
    for level, sets in expected.items():
        lines = emf.lines(series, Identity("training", DIMENSIONS, level), MINUTE)
        assert [[datum.dimensions for datum in emf_validator.read(line)] for line in lines] == sets


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
        ({"Project": "p"} | {f"D{number}": "v" for number in range(29)}, "30 dimensions"),
        ({"Project": "p"} | {f"D{number}": "v" * 1000 for number in range(4)}, "too long"),
    ],
)
def test_what_cloudwatch_refuses_is_refused_by_name(dimensions: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        emf.check(Identity("training", dimensions))
