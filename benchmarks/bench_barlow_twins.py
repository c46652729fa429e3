"""barlow_twins_loss against its reference, eager and compiled.

``python -m pytest benchmarks/bench_barlow_twins.py``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

from benchmarks.suites import parametrized, run


@parametrized("barlow_twins_loss")
def test_barlow_twins(benchmark, case, variant):
    run(benchmark, case, variant)
