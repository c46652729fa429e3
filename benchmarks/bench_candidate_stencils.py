"""candidate_stencils against its reference, eager and compiled.

``python -m pytest benchmarks/bench_candidate_stencils.py``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

from benchmarks.suites import parametrized, run


@parametrized("candidate_stencils")
def test_candidate_stencils(benchmark, case, variant):
    run(benchmark, case, variant)
