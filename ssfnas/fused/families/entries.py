"""ReLU, 1x1 convolution and BatchNorm: how a cell brings its inputs to its own channels."""

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
)
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import ReLUConvBN
from ssfnas.ops.primitives import pointwise_backward, pointwise_forward


class Entries(Family):
    """One :class:`~ssfnas.layers.operations.ReLUConvBN`; its parameter is the filter.

    An input has one entry, and no path of it is ever dropped.
    """

    overwrites = False
    _convolution: nn.Conv2d | None = None

    @staticmethod
    def form(module: nn.Module, stride: int) -> tuple[nn.Conv2d, BatchNorm2d] | None:
        """The convolution and the BatchNorm of a unit."""
        if type(module) is not ReLUConvBN or len(module) != 3:
            return None
        relu, convolution, norm = module
        if type(relu) is not nn.ReLU or type(norm) is not BatchNorm2d:
            return None
        if not is_pointwise(convolution) or not has_both_or_none(norm):
            return None
        return convolution, norm

    def accept(self, form: tuple[nn.Conv2d, BatchNorm2d]) -> int | None:
        """The first unit's number."""
        if self._convolution is not None:
            return None
        self._convolution, self._norm = form
        return 0

    def take_rows(self, rows: Rows) -> None:
        """One of each kind."""
        self._statistics = rows.take_statistics([[self._norm]])
        self._block = rows.take_block(1)

    def parameters(self) -> list[Tensor]:
        """The filter."""
        assert self._convolution is not None
        return [self._convolution.weight]

    def statistics_row(self, number: int) -> int:
        """The only one."""
        return self._statistics.start

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """The only ones."""
        return self._block.rows(number)

    def forward(self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """The result before the BatchNorm."""
        z, mean, var = pointwise_forward(parts, parameters[0])
        statistics.enter(self._statistics, mean, var, z)
        return z

    def result(self, results: Tensor, number: int) -> Tensor:
        """It."""
        return results

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Both gradients in one pass."""
        (use,) = given.uses
        dxs, d_weight = pointwise_backward(
            given.parts,
            given.results,
            use.grad,
            *given.coefficients.rows_of(self._block),
            given.parameters[0],
            needs_x=given.needs_x,
            needs_weight=given.needs_parameters,
            into=total,
        )
        return dxs, [d_weight]
