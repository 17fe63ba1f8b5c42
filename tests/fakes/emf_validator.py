"""Reads a line of CloudWatch's Embedded Metric Format as CloudWatch would, or says why it would not.

Written from the public specification (CloudWatch user guide, "Specification: Embedded metric
format") and from the API reference's limits of names, dimensions and units.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

PIPE_BUF = 4096
UNITS = {
    *("Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None"),
    *(f"{scale}{base}" for base in ("bytes", "bits") for scale in ("Kilo", "Mega", "Giga", "Tera")),
    *("Bytes", "Bits", "Count/Second"),
}


@dataclass(frozen=True)
class Datum:
    """One metric under one dimension set: what CloudWatch stores from a line."""

    namespace: str
    dimensions: dict[str, str]
    name: str
    unit: str
    values: list[float]
    timestamp_milliseconds: int
    part: tuple[str, str] | None
    """`Gpu` or `Figure` and which, in the dimensions or beside them."""

    @property
    def gpu(self) -> int | None:
        return int(self.part[1]) if self.part and self.part[0] == "Gpu" else None


def read(line: bytes) -> list[Datum]:
    """All data of one line, its newline included. Raises ValueError naming the rule it breaks."""
    _rule(line.endswith(b"\n") and line.count(b"\n") == 1, "one line, ended by a newline")
    _rule(len(line) <= PIPE_BUF, f"{len(line)} bytes: a pipe may cut what is above {PIPE_BUF}")
    _rule(line[:1] == b"{" and line[-2:-1] == b"}", "no byte before or after the JSON object")
    root = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_unique)
    metadata = _member(root, "_aws", dict)
    timestamp = _member(metadata, "Timestamp", int)
    _rule(10**12 < timestamp < 10**13, "Timestamp in milliseconds since 1970")
    data = []
    for directive in _member(metadata, "CloudWatchMetrics", list):
        _rule(set(directive) == {"Namespace", "Dimensions", "Metrics"}, "members of a directive")
        namespace = _member(directive, "Namespace", str)
        _rule(1 <= len(namespace) <= 255 and not namespace.startswith("AWS/"), "namespace")
        metrics = _member(directive, "Metrics", list)
        _rule(1 <= len(metrics) <= 100, "1 to 100 metrics a directive")
        sets = _member(directive, "Dimensions", list)
        _rule(bool(sets), "at least one dimension set")
        for names in sets:
            _rule(len(names) <= 30 and len(set(names)) == len(names), "at most 30 different dimensions")
            dimensions = {name: _dimension(root, name) for name in names}
            for metric in metrics:
                name, unit = _member(metric, "Name", str), metric.get("Unit", "None")
                _rule(set(metric) <= {"Name", "Unit", "StorageResolution"}, "members of a metric")
                _rule(1 <= len(name) <= 255 and unit in UNITS, f"name and unit of {name}")
                part = next(((kind, root[kind]) for kind in ("Gpu", "Figure") if kind in root), None)
                data.append(Datum(namespace, dimensions, name, unit, _values(root, name), timestamp, part))
        named = [metric["Name"] for metric in metrics]
        _rule(len(set(named)) == len(named), "a metric is named once")
    return data


def _values(root: dict[str, Any], name: str) -> list[float]:
    _rule(name in root, f"the value of {name} is in the root")
    values = root[name] if isinstance(root[name], list) else [root[name]]
    _rule(1 <= len(values) <= 100, f"{name}: 1 to 100 values")
    for value in values:
        _rule(type(value) in (int, float) and math.isfinite(value), f"{name}: {value!r} is a finite number")
        _rule(abs(value) <= 2.0**360, f"{name}: {value!r} is within CloudWatch's range")
    return values


def _dimension(root: dict[str, Any], name: str) -> str:
    value = _member(root, name, str)
    _rule(name.isascii() and 1 <= len(name) <= 255 and not name.startswith(":"), f"dimension name {name!r}")
    _rule(value.isascii() and value.strip() != "" and len(value) <= 1024, f"dimension {name} = {value!r}")
    return value


def _member(parent: dict[str, Any], name: str, kind: type) -> Any:
    _rule(isinstance(parent, dict) and type(parent.get(name)) is kind, f"{name} is there, a {kind.__name__}")
    return parent[name]


def _no_constant(text: str) -> None:
    raise ValueError(f"EMF rule broken: {text} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _rule(len({name for name, _ in pairs}) == len(pairs), "a member occurs once")
    return dict(pairs)


def _rule(kept: bool, rule: str) -> None:
    if not kept:
        raise ValueError(f"EMF rule broken: {rule}")
