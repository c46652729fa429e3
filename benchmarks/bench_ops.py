"""Each op against its reference, eager and compiled, under pytest-benchmark.

``python -m pytest benchmarks/bench_ops.py [-k mixed_sum]``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import OPS, cases
from benchmarks.timing import input_sets
from benchmarks.variants import COMPILED, EAGER, check, variants
from ssfnas import ops

CASES = [case for op in OPS for case in cases(op, cpu=not torch.cuda.is_available())]


@pytest.mark.parametrize("variant", [EAGER, COMPILED, *ops.backends()])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(benchmark, case, variant):
    """Checked once, then timed on inputs that no cache still holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {each.name: each for each in variants(case, device, compiled=variant == COMPILED)}
    if variant not in found:
        pytest.skip(f"{variant}: {ops.backends().get(variant) or f'not on {device}'}")
    chosen, sets = found[variant], input_sets(case, device)
    check(case, chosen, sets[0])
    place = 0

    def call() -> None:
        nonlocal place
        chosen.run(sets[place % len(sets)])
        place += 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = case.name
    benchmark.extra_info["bytes"] = case.bytes_moved
    benchmark(call)
