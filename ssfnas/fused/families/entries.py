"""ReLU, 1x1 convolution and BatchNorm: how a cell brings its inputs to its own channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
)
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import ReLUConvBN
from ssfnas.ops.primitives import pointwise_backward, pointwise_forward


class Entries(Family):
    """:class:`~ssfnas.layers.operations.ReLUConvBN`; parameters are the filters."""

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self._convolutions: list[nn.Conv2d] = []
        self._norms: list[BatchNorm2d] = []

    def accept(self, module: nn.Module) -> int | None:
        """A unit's number."""
        if type(module) is not ReLUConvBN or len(module) != 3:
            return None
        relu, convolution, norm = module
        if type(relu) is not nn.ReLU or type(norm) is not BatchNorm2d:
            return None
        if not is_pointwise(convolution) or not has_both_or_none(norm):
            return None
        self._convolutions.append(convolution)
        self._norms.append(norm)
        return len(self._norms) - 1

    def take_rows(self, rows: Rows) -> None:
        """One of each kind each."""
        self._statistics = rows.take_statistics([[norm] for norm in self._norms])
        self._block = rows.take_block(len(self._norms))

    def parameters(self) -> list[Tensor]:
        """Filters."""
        return [convolution.weight for convolution in self._convolutions]

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
        results = []
        for number, weight in enumerate(parameters):
            z, mean, var = pointwise_forward(parts, weight)
            row = self._statistics.start + number
            statistics.enter(slice(row, row + 1), mean, var, z)
            results.append(z)
        return results

    def result(self, results: list[Tensor], number: int) -> Tensor:
        """One of them."""
        return results[number]

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Each adds to the gradient of the input."""
        of_filters: Gradients = []
        p, q, r = given.coefficients.rows_of(self._block)
        for number, (z, weight, use) in enumerate(
            zip(given.results, given.parameters, given.uses, strict=True)
        ):
            own = slice(number, number + 1)
            grad = use.grad
            if use.factor is not None:
                grad = grad * use.factor.to(grad.dtype).view(-1, 1, 1, 1)
            dxs, d_weight = pointwise_backward(
                given.parts,
                z,
                grad,
                p[own],
                None if q is None else q[own],
                None if r is None else r[own],
                weight,
                needs_x=given.needs_x,
                needs_weight=given.needs_parameters,
            )
            of_filters.append(d_weight)
            if total is None:
                total = dxs
            elif dxs is not None:
                torch._foreach_add_(total, dxs)
        return total, of_filters
