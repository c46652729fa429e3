"""Each op against its reference, eager and compiled, under pytest-benchmark.

``python -m pytest benchmarks/bench_ops.py [-k mixed_sum]``: host time of whole calls.
``python -m benchmarks`` measures device time.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.cases import OPS, cases
from benchmarks.pages import COMPILED, EAGER
from benchmarks.variants import check, expected, variants
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
    chosen, sets = found[variant], case.input_sets(device)
    check(case, chosen, sets[0], expected(case, sets[0]))
    inputs = itertools.cycle(sets)

    def call() -> None:
        chosen.run(next(inputs))
        if device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = case.name
    benchmark.extra_info["bytes"] = case.bytes_moved
    benchmark(call)
