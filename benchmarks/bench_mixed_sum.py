"""mixed_sum against its reference, eager and compiled.

``python -m pytest benchmarks/bench_mixed_sum.py``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

from benchmarks.suites import parametrized, run


@parametrized("mixed_sum")
def test_mixed_sum(benchmark, case, variant):
    run(benchmark, case, variant)
