"""While a job trains: its numbers as lines that SageMaker's metric definitions find in the log.

The service applies each definition's regular expression to every line and takes the first group as the number.
"""

import math
import re

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def metric_line(name: str, value: float, step: int) -> str | None:
    """`step=120; train_loss=0.5312;`, or None when the value is not finite: the service reads numbers only.

    Raises TypeError when `name` is not a word of letters, digits and underscores.
    """
    if not NAME.fullmatch(name):
        raise TypeError(f"metric name {name!r} is not a word of letters, digits and underscores")
    if not math.isfinite(value):
        return None
    return f"step={step:d}; {name}={float(value):.8g};"


def metric_regex(name: str) -> str:
    """The regular expression (at most 500 characters for SageMaker) that finds `name` in such a line."""
    return rf"; {name}=([-+.0-9e]+);"
