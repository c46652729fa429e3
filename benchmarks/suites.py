"""What the pytest-benchmark suites share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.cases import Case, cases
from benchmarks.timing import input_sets
from benchmarks.variants import COMPILED, EAGER, check, variants
from ssfnas import ops

VARIANTS = (EAGER, COMPILED, *ops.backends())


def parametrized(op: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a benchmark for every case of ``op`` and every variant."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        by_case = pytest.mark.parametrize(
            "case", cases(op, processor=not torch.cuda.is_available()), ids=lambda case: case.name
        )
        return by_case(pytest.mark.parametrize("variant", VARIANTS)(function))

    return decorate


def run(benchmark: Any, case: Case, variant: str) -> None:
    """Check one variant of a case, then time it on inputs that no cache still holds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = variants(case, device, compiled=variant == COMPILED)
    chosen = next((one for one in found if one.name == variant), None)
    if chosen is None:
        reason = ops.backends().get(variant) or f"not on {device}"
        pytest.skip(f"{variant} cannot run here: {reason}")
    sets = input_sets(case, device)
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
