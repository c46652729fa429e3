"""Factorized reduces: the skip connections of stride 2, and the way from a finer cell."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Rows
from ssfnas.fused.families.family import (
    Backward,
    Family,
    Gradients,
    Parts,
    has_both_or_none,
    is_pointwise,
    none_of,
)
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import FactorizedReduce
from ssfnas.ops.primitives import reduces_backward, reduces_forward


class Reduces(Family):
    """Factorized reduces; they share the pixels that they read (:mod:`..ops.torch_reduces`).

    Parameters are the filters of even pixels, then those of odd ones.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self._reduces: list[FactorizedReduce] = []

    @staticmethod
    def form(module: nn.Module, stride: int) -> FactorizedReduce | None:
        """A factorized reduce."""
        if type(module) is not FactorizedReduce or type(module.norm) is not BatchNorm2d:
            return None
        if not (is_pointwise(module.even) and is_pointwise(module.odd)):
            return None
        return module if has_both_or_none(module.norm) else None

    def accept(self, form: FactorizedReduce) -> int:
        """The next number."""
        self._reduces.append(form)
        return len(self._reduces) - 1

    def take_rows(self, rows: Rows) -> None:
        """One of each kind each."""
        self._statistics = rows.take_statistics([[reduce.norm] for reduce in self._reduces])
        self._block = rows.take_block(len(self._reduces))

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
        zs, mean, var = reduces_forward(parts, parameters[:count], parameters[count:])
        statistics.enter(self._statistics, mean, var, zs[0])
        return zs

    def result(self, results: list[Tensor], number: int) -> Tensor:
        """One of them."""
        return results[number]

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """All gradients in one pass."""
        count = len(self._reduces)
        dxs, of_even, of_odd = reduces_backward(
            given.parts,
            given.results,
            [use.grad for use in given.uses],
            *given.coefficients.rows_of(self._block),
            given.parameters[:count],
            given.parameters[count:],
            needs_x=given.needs_x,
            needs_weights=given.needs_parameters,
            into=total,
            factors=given.factors(range(count)),
        )
        if of_even is None or of_odd is None:
            return dxs, none_of(given.parameters)
        return dxs, [*of_even, *of_odd]
