"""The tests' own reader of EMF lines refuses what CloudWatch would refuse."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import emf_validator


def good() -> dict[str, Any]:
    return {
        "_aws": {
            "Timestamp": 1_790_000_000_000,
            "CloudWatchMetrics": [
                {
                    "Namespace": "N",
                    "Dimensions": [["Project"], []],
                    "Metrics": [{"Name": "A", "Unit": "Percent"}],
                }
            ],
        },
        "Project": "p",
        "A": [1, 2.5],
    }


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def directive(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["_aws"]["CloudWatchMetrics"][0]
    return found


def test_a_good_line_gives_one_datum_per_dimension_set() -> None:
    data = emf_validator.read(encode(good()))
    assert [(datum.dimensions, datum.values) for datum in data] == [
        ({"Project": "p"}, [1, 2.5]),
        ({}, [1, 2.5]),
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.update(A=[0] * 101),
        lambda document: document.update(A=[float("nan")]),
        lambda document: document.update(A=[]),
        lambda document: document.update(A=["1"]),
        lambda document: document.update(A=[True]),
        lambda document: document.pop("A"),
        lambda document: document.update(Project=3),
        lambda document: document.update(Project=""),
        lambda document: document.update(Project="p" * 1025),
        lambda document: document.update(Project="Zürich"),
        lambda document: document.pop("Project"),
        lambda document: document.update(Note="n" * 4096),
        lambda document: document["_aws"].pop("Timestamp"),
        lambda document: document["_aws"].update(Timestamp=1_790_000_000),
        lambda document: directive(document).update(Namespace="AWS/Mine"),
        lambda document: directive(document).update(Metrics=[]),
        lambda document: directive(document).update(Metrics=[{"Name": "A"}] * 101),
        lambda document: directive(document).update(Metrics=[{"Name": "A", "Unit": "Watts"}]),
        lambda document: directive(document).update(Dimensions=[]),
        lambda document: directive(document).update(Dimensions=[["Project", "Project"]]),
        lambda document: directive(document).update(Dimensions=[[f"D{number}" for number in range(31)]]),
    ],
)
def test_a_broken_rule_is_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    document = good()
    spoil(document)
    with pytest.raises(ValueError, match="EMF rule broken"):
        emf_validator.read(encode(document))


@pytest.mark.parametrize("line", [b"rank 0: " + encode(good()), encode(good())[:-1], encode(good()) * 2])
def test_nothing_stands_around_the_json(line: bytes) -> None:
    with pytest.raises(ValueError, match="EMF rule broken"):
        emf_validator.read(line)
