"""What is written of the curves: learning.csv, learning.md and learning.png."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """One measurement on the unseen pictures."""

    seconds: float
    """processor time of the training until then"""
    step: int
    error_degrees: float
    """mean over all pixels that have truth"""


@dataclass(frozen=True)
class Comparison:
    """Several trainings on the same pictures."""

    title: str
    against: str
    """`seconds` or `step`: what they have in common"""
    curves: dict[str, list[Point]]


@dataclass(frozen=True)
class Results:
    pictures: str
    constant_degrees: float
    """Error of the best answer that does not look: the mean normal of each place."""
    comparisons: list[Comparison] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        with (folder / "learning.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["comparison", "training", "seconds", "step", "mean_angular_error"])
            for comparison in self.comparisons:
                for name, points in comparison.curves.items():
                    for point in points:
                        writer.writerow(
                            [
                                comparison.title,
                                name,
                                f"{point.seconds:.2f}",
                                point.step,
                                f"{point.error_degrees:.3f}",
                            ]
                        )
        (folder / "learning.md").write_text(self.table())
        self.plot(folder / "learning.png")

    def table(self) -> str:
        """As Markdown."""
        lines = [
            f"{self.pictures}; mean angular error in degrees on the unseen ones, best constant "
            f"{self.constant_degrees:.1f}."
        ]
        for comparison in self.comparisons:
            lines += [
                "",
                f"| {comparison.title} | steps | processor seconds | error at the end | best error |",
                "|---|---|---|---|---|",
            ]
            for name, points in comparison.curves.items():
                last, best = points[-1], min(point.error_degrees for point in points)
                lines.append(
                    f"| {name} | {last.step} | {last.seconds:.0f} | {last.error_degrees:.1f} | {best:.1f} |"
                )
        return "\n".join(lines) + "\n"

    def plot(self, path: Path) -> None:
        """A panel for each comparison, each with the constant's line."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, panels = plt.subplots(
            1, len(self.comparisons), figsize=(4.6 * len(self.comparisons), 3.2), sharey=True, squeeze=False
        )
        for panel, comparison in zip(panels[0], self.comparisons, strict=True):
            scale, label = (60, "minutes") if comparison.against == "seconds" else (1, "steps")
            for name, points in comparison.curves.items():
                panel.plot(
                    [getattr(point, comparison.against) / scale for point in points],
                    [point.error_degrees for point in points],
                    marker=".",
                    label=name,
                )
            panel.axhline(
                self.constant_degrees, color="0.3", linestyle="--", linewidth=1, label="best constant"
            )
            panel.set_title(comparison.title, fontsize=10)
            panel.set_xlabel(label)
            panel.set_xlim(left=0)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(fontsize=8, frameon=False)
        panels[0][0].set_ylabel("mean error on unseen pictures (degrees)")
        figure.set_layout_engine("constrained")
        figure.savefig(path, dpi=120)
        plt.close(figure)


def read_points(path: Path) -> list[Point]:
    """What a contestant wrote, so far."""
    return [Point(**json.loads(line)) for line in path.read_text().splitlines()]
