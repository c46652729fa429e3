"""Identities: a state is its own summand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Rows
from ssfnas.fused.families.family import Backward, Family, Gradients, Parts


class Skips(Family):
    """Skip connections of stride 1; their gradient is sum_k p_k g_k."""

    overwrites = False
    _count = 0

    @staticmethod
    def form(module: nn.Module, stride: int) -> bool | None:
        """An identity has none but that it is one."""
        return True if type(module) is nn.Identity else None

    def accept(self, form: bool) -> int:
        """The next number."""
        self._count += 1
        return self._count - 1

    def take_rows(self, rows: Rows) -> None:
        """p of all, and ones for what the gradient of the state is so far; q and r are not used."""
        self._p = rows.take_ones(self._count + 1)
        self._unused = rows.take(2 * self._count)

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """Those of p, and two that nobody reads."""
        unused = self._unused.start + number
        return self._p.start + number, unused, unused + self._count

    def forward(self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics) -> Any:
        """Nothing."""

    def result(self, results: Any, number: int) -> None:
        """The state."""

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """One sum."""
        if not given.needs_x:
            return total, []
        grads = [use.grad for use in given.uses]
        more = 0 if total is None else 1
        factors = given.factors(range(len(grads)), more)
        if total is not None:
            grads += total
        return [given.sum(grads, slice(self._p.start, self._p.start + len(grads)), 0, factors)], []
