"""Where the agent's series go, by METRICS_SINK: lines on standard output, PutMetricData, or nowhere."""

import os
import sys
from collections.abc import Sequence
from typing import Protocol

from metrics import emf
from metrics.catalogue import Series
from metrics.cloudwatch import Identity

SINKS = ("emf", "putmetricdata", "off")


class Sink(Protocol):
    """Takes what a period made; never waits for a network."""

    def publish(self, series: Sequence[Series], timestamp_milliseconds: int) -> None:
        """`timestamp_milliseconds`: of the period's start, since 1970 UTC."""

    def close(self) -> None:
        """Bring away what is left; within two seconds."""


class EmfSink:
    """Each line in one write to standard output."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def publish(self, series: Sequence[Series], timestamp_milliseconds: int) -> None:
        for line in emf.lines(series, self._identity, timestamp_milliseconds):
            os.write(sys.stdout.fileno(), line)

    def close(self) -> None:
        pass


class NoSink:
    """For those who want the snapshot and the verdict only."""

    def publish(self, series: Sequence[Series], timestamp_milliseconds: int) -> None:
        pass

    def close(self) -> None:
        pass


def open_sink(name: str, identity: Identity, region: str | None) -> Sink:
    """The sink of this name, one of SINKS. `region`: AWS's, for PutMetricData; None: as boto3 finds it."""
    if name == "off":
        return NoSink()
    if name == "putmetricdata":
        # Not above: only this sink needs boto3, which takes half a second and 40 MB.
        from metrics.put_metric_data import PutMetricData

        return PutMetricData(identity, region, EmfSink(identity))
    return EmfSink(identity)
