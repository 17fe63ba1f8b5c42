"""The parts of benchmark_learning.py."""
