"""``none``, where a node has nothing else: a summand of zeros, which makes it a state at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Rows
from ssfnas.fused.families.family import Backward, Family, Gradients, Parts
from ssfnas.layers.operations import Zero


class Zeros(Family):
    """Candidates through which nothing passes; one result serves all."""

    _count = 0

    @staticmethod
    def form(module: nn.Module, stride: int) -> bool | None:
        """There is none but that it is one."""
        return True if type(module) is Zero and module.stride == stride else None

    def accept(self, form: bool) -> int:
        """The next number."""
        self._count += 1
        return self._count - 1

    def take_rows(self, rows: Rows) -> None:
        """Three each, which nobody reads."""
        self._unused = rows.take(3 * self._count)

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """Those that nobody reads."""
        first = self._unused.start + 3 * number
        return first, first + 1, first + 2

    def forward(self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """Zeros of a summand's size."""
        (x,) = parts
        height, width = (-(-side // self.stride) for side in x.shape[-2:])
        zeros = x.new_zeros(*x.shape[:2], height, width)
        return zeros.contiguous(memory_format=torch.channels_last)

    def result(self, results: Tensor, number: int) -> Tensor:
        """The zeros."""
        return results

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Nothing."""
        return total, []
