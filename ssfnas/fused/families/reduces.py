"""Factorized reduces: the skip connections of stride 2, and the way from a finer cell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Block, Rows
from ssfnas.fused.families.family import (
    Backward,
    Family,
    Gradients,
    Parts,
    has_both_or_none,
    is_pointwise,
)
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import FactorizedReduce
from ssfnas.ops.factorized_reduces import reduces_backward, reduces_forward
from ssfnas.ops.primitives import norm_statistics


class Reduces(Family):
    """Factorized reduces; they share the pixels that they read (:mod:`..ops.factorized_reduces`).

    Parameters are the filters of even pixels, then those of odd ones.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self._reduces: list[FactorizedReduce] = []

    def accept(self, module: nn.Module) -> int | None:
        """A factorized reduce's number."""
        if type(module) is not FactorizedReduce or type(module.norm) is not BatchNorm2d:
            return None
        if not (is_pointwise(module.even) and is_pointwise(module.odd)):
            return None
        if not has_both_or_none(module.norm):
            return None
        self._reduces.append(module)
        return len(self._reduces) - 1

    def take_rows(self, rows: Rows) -> None:
        """p and q of each side by side, which are the factors of one sum; r of each."""
        self._statistics = rows.take_statistics([[reduce.norm] for reduce in self._reduces])
        pairs, count = rows.take(2 * len(self._reduces)), len(self._reduces)
        p, q = (slice(pairs.start + i, pairs.stop, 2) for i in range(2))
        self._block = Block(p, q, rows.take(count))

    def parameters(self) -> list[Tensor]:
        """Filters."""
        return [r.even.weight for r in self._reduces] + [r.odd.weight for r in self._reduces]

    def statistics_row(self, number: int) -> int:
        """One each."""
        return self._statistics.start + number

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """One of each kind each."""
        return self._block.rows(number)

    def forward(
        self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics
    ) -> list[Tensor]:
        """Results before the BatchNorms."""
        count = len(self._reduces)
        zs = reduces_forward(parts, parameters[:count], parameters[count:])
        mean, var = norm_statistics(zs, [True] * count)
        statistics.enter(self._statistics, mean, var, zs[0])
        return zs

    def result(self, results: list[Tensor], number: int) -> Tensor:
        """One of them."""
        return results[number]

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Each gradient of a result is written once."""
        count, own_statistics = len(self._reduces), given.coefficients.batch_statistics
        dzs = []
        for number, z in enumerate(given.results):
            p, q, r = self._block.rows(number)
            grad = given.uses[number].grad
            if own_statistics:
                factors = given.factors([number], 1)
                dzs.append(given.sum([grad, z], slice(p, q + 1), r, factors))
            else:
                dzs.append(given.sum([grad], slice(p, p + 1), 0, given.factors([number])))
        total, of_even, of_odd = reduces_backward(
            given.parts,
            dzs,
            given.parameters[:count],
            given.parameters[count:],
            needs_weights=given.needs_parameters,
            into=total,
        )
        if of_even is None or of_odd is None:
            return total, [None] * (2 * count)
        return total, [*of_even, *of_odd]
