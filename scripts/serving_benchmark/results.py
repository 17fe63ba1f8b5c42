"""The benchmark's numbers, and what is written of them: a table, a plot, and the rounds as JSON."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Results:
    """Each server's and limit's figures, one number a round."""

    cores: int
    rounds: int
    seconds: float
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, figure: str, value: float) -> None:
        """One round's number."""
        self.figures.setdefault(name, {}).setdefault(figure, []).append(value)

    def note(self, name: str, text: str) -> None:
        """What a reader must know of it."""
        self.notes[name] = text

    def count_failures(self, name: str, count: int) -> None:
        """Requests that were not answered 200."""
        self.failures[name] = self.failures.get(name, 0) + count

    def median(self, name: str, figure: str) -> float | None:
        """Over the rounds; None where it was not measured."""
        values = self.figures.get(name, {}).get(figure)
        return statistics.median(values) if values else None

    def write(self, folder: Path) -> None:
        """serving.json, serving.md and serving.png."""
        (folder / "serving.json").write_text(json.dumps(asdict(self), indent=1))
        (folder / "serving.md").write_text(self.table())
        self.plot(folder / "serving.png")

    def _servers(self) -> list[str]:
        return [name for name, figures in self.figures.items() if "rate_1" in figures]

    def table(self) -> str:
        """As Markdown."""
        lines = [
            "| | images/s at 1, 8, 32 connections | of the limit | p50 at 1, p99 at 8 (ms) "
            "| slowest ping at 32 (ms) | first 200, first answer (s) | memory (MB) |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figures in self.figures.items():
            if "single_rate" in figures:
                rate, single = self._of(name, "rate"), self._of(name, "single_rate")
                lines.append(f"| {name} | {rate:.1f} | | {1000 / single:.0f} | | | |")
            elif "rate_1" in figures:
                rates = [self._of(name, f"rate_{n}") for n in (1, 8, 32)]
                limit = self._of(f"limit, {name.partition(', ')[2]}", "rate")
                lines.append(
                    f"| {name} | {' / '.join(f'{rate:.1f}' for rate in rates)} "
                    f"| {' / '.join(f'{rate / limit:.2f}' for rate in rates)} "
                    f"| {self._of(name, 'p50_ms_1'):.0f}, {self._of(name, 'p99_ms_8'):.0f} "
                    f"| {self._of(name, 'ping_ms_32'):.0f} "
                    f"| {self._of(name, 'first_200_seconds'):.1f}, {self._of(name, 'first_answer_seconds'):.1f} "
                    f"| {self._of(name, 'memory_megabytes'):.0f} |"
                )
        lines += [
            "",
            "| a model that does nothing | requests/s at 8 connections | CPU ms each |",
            "|---|---|---|",
        ]
        lines += [
            f"| {name} | {self._of(name, 'null_rate'):.0f} | {self._of(name, 'null_cpu_ms'):.2f} |"
            for name, figures in self.figures.items()
            if "null_rate" in figures
        ]
        lines += ["", f"{self.cores} cores; medians of {self.rounds} rounds of {self.seconds:g} s."]
        lines += [f"{name}: {text}." for name, text in self.notes.items()]
        lines += [f"{name}: {count} requests failed." for name, count in self.failures.items() if count]
        return "\n".join(lines) + "\n"

    def _of(self, name: str, figure: str) -> float:
        value = self.median(name, figure)
        if value is None:
            raise ValueError(f"{figure} of {name} was not measured")
        return value

    def plot(self, path: Path) -> None:
        """Images a second of each server at each number of connections, the limits as lines."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        servers = self._servers()
        engines = list(dict.fromkeys(name.partition(", ")[2] for name in servers))
        programs = list(dict.fromkeys(name.partition(", ")[0] for name in servers))
        figure, panels = plt.subplots(
            1, len(engines), figsize=(4 * len(engines), 3), sharey=True, squeeze=False
        )
        for panel, engine in zip(panels[0], engines, strict=True):
            limit = self._of(f"limit, {engine}", "rate")
            panel.axhline(limit, color="0.3", linestyle="--", linewidth=1, label="limit, no server")
            for place, program in enumerate(programs):
                if f"{program}, {engine}" not in servers:
                    continue
                rates = [self._of(f"{program}, {engine}", f"rate_{n}") for n in (1, 8, 32)]
                shift = 0.8 * (place - (len(programs) - 1) / 2) / len(programs)
                panel.bar([index + shift for index in range(3)], rates, 0.8 / len(programs), label=program)
            panel.set_title(engine)
            panel.set_xticks(range(3), ["1", "8", "32"])
            panel.set_xlabel("connections")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0][0].set_ylabel("images/s")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        figure.set_layout_engine("constrained")
        figure.savefig(path, dpi=120)
        plt.close(figure)
