"""For the report: what the job made of its GPUs, as whoever watches them keeps it in a file beside ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "gpu-summary.json"


def read_gpu_use(output_dir: Path) -> dict[str, str]:
    """Figures by what they are of, and the `verdict`, as far as they are known; empty without the file."""
    try:
        return _in_words(json.loads((output_dir / FILE).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _in_words(summary: Mapping[str, Any]) -> dict[str, str]:
    rows = {"verdict": str(summary["verdict"])}
    if used := summary.get("utilization_percent"):
        rows["utilisation"] = f"{used['mean']:.0f} %, 10th percentile {used['p10']} %, median {used['p50']} %"
    for name, words in (("data_wait_percent", "wait for data"), ("throttled_percent", "throttled")):
        if name in summary:
            rows[words] = f"{summary[name]:.1f} % of the time"
    if "memory_peak_bytes" in summary:
        peak, total = (summary[f"memory_{name}_bytes"] / 1e9 for name in ("peak", "total"))
        rows["largest memory"] = f"{peak:.1f} of {total:.1f} GB"
    if summary.get("batch_could_be_times_larger", 0) >= 2:
        rows["the batch could be"] = f"{summary['batch_could_be_times_larger']:.3g} times larger"
    if "energy_joules" in summary:
        rows["energy"] = f"{summary['energy_joules'] / 1000:.3g} kJ"
    if "images_per_joule" in summary:
        rows["images per joule"] = f"{summary['images_per_joule']:.3g}"
    if "host_usd" in summary:
        rows["cost of this host"] = f"{summary['host_usd']:.2f} USD"
    return rows
