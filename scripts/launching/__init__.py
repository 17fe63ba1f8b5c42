"""The verbs of `scripts/launch.py`, one file each, and what they share: calls, limits, watching, cures."""
