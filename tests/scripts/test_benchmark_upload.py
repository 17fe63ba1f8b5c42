"""scripts/benchmark_upload.py runs: both ways put the files there, and their seconds are told."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "scripts" / "benchmark_upload.py"


def test_it_measures_the_loop_and_launch_and_their_ratio():
    command = [sys.executable, PROGRAM, "--files", "6", "--kilobytes", "1", "--delay-ms", "5"]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    head, loop, ours, again = result.stdout.splitlines()
    assert head == "6 files of 1 kB, answers 5 ms late:"
    loop_seconds, seconds = (float(re.search(r"([\d.]+) s", line)[1]) for line in (loop, ours))
    told = float(re.search(r"([\d.]+) times as fast", ours)[1])
    assert abs(told - loop_seconds / seconds) < 0.2
    assert again.startswith("the same once more")
    assert "6 files" in result.stderr or "copied" not in result.stderr
