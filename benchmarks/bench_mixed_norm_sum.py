"""mixed_norm_sum against its reference, eager and compiled.

``python -m pytest benchmarks/bench_mixed_norm_sum.py``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

from benchmarks.suites import parametrized, run


@parametrized("mixed_norm_sum")
def test_mixed_norm_sum(benchmark, case, variant):
    run(benchmark, case, variant)
