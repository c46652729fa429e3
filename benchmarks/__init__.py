"""Kernels against their references: ``python -m benchmarks``, or pytest-benchmark suites."""
