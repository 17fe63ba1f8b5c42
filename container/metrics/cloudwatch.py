"""What CloudWatch takes: limits with their sources, namespace, dimension sets."""

from collections.abc import Mapping
from dataclasses import dataclass

from metrics.catalogue import Part

NAMESPACE = "VisionContainers"
LEVELS = ("fleet", "host", "gpu")
"""One series for each figure of the project; also one of each host; or also one of each part of a host."""

# CloudWatch API reference, "Dimension" and "MetricDatum"; names and values are ASCII.
DIMENSIONS = 30
DIMENSION_NAME_CHARACTERS = 255
DIMENSION_VALUE_CHARACTERS = 1024
# CloudWatch user guide, "Specification: Embedded metric format": of a line, and of a metric's array.
EMF_METRICS = 100
EMF_VALUES = 100


@dataclass(frozen=True)
class Identity:
    """Under which names the figures are filed. `dimensions`: this host's, `Project` among them."""

    phase: str
    dimensions: Mapping[str, str]
    level: str = "host"
    boot: str = "0"
    """Tells an endpoint's instances apart in the log, which share their dimensions: no dimension, as it is new
    with each start, and each would be a series."""

    def sets(self, part: Part | None) -> list[dict[str, str]]:
        """The dimension sets of a figure; each is a series of its own, and the number of series is the bill."""
        fleet = {"Project": self.dimensions["Project"], "Phase": self.phase}
        if self.level == "fleet":
            return [fleet]
        of_part = dict([part]) if self.level == "gpu" and part is not None else {}
        return [fleet, {**self.dimensions, **of_part}]

    def check(self) -> None:
        """Raise ValueError, naming the dimension, if CloudWatch would refuse these."""
        if "Project" not in self.dimensions:
            raise ValueError("the dimension Project is missing: alarms hang on Project and Phase")
        if len(self.dimensions) + 1 > DIMENSIONS:  # and a part's
            raise ValueError(
                f"{len(self.dimensions)} dimensions, CloudWatch takes at most {DIMENSIONS - 1} and one more"
            )
        for name, value in {**self.dimensions, "Phase": self.phase}.items():
            for text, characters in ((name, DIMENSION_NAME_CHARACTERS), (value, DIMENSION_VALUE_CHARACTERS)):
                if not (text.strip() and text.isascii() and text.isprintable() and len(text) <= characters):
                    raise ValueError(
                        f"dimension {name!r} = {value!r}: CloudWatch takes 1 to {characters} printable ASCII characters"
                    )
