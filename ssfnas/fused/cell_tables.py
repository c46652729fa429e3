"""Where a cell's coefficients stand in the tables of :mod:`ssfnas.ops.norm_coefficients`.

Whatever a kernel reads together stands together, so that it is a slice. Row 0 of the statistics is
that of what is not normalized, rows 0 and 1 of the gradients hold zeros and ones.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.ops.norm_coefficients import RSTD, SCALE

PLAIN = 0  # of statistics: mean 0, factor 1
ZEROS, ONES = 0, 1  # of gradients


class Block:
    """Rows of the gradients' table: p, q and r of several terms or units."""

    def __init__(self, p: slice, q: slice, r: slice) -> None:
        self.p, self.q, self.r = p, q, r

    def rows(self, number: int) -> tuple[int, int, int]:
        """Those of one of them."""
        p, q, r = (part.start + number for part in (self.p, self.q, self.r))
        return p, q, r


@dataclass
class Rows:
    """The rows that families take, one after the other.

    Attributes:
        norms: for each row of statistics but the first, the BatchNorms that have them.
        gradients: how many rows of the gradients' table are taken.
        ones: those that hold ones from the start.
    """

    norms: list[list[BatchNorm2d]] = field(default_factory=list)
    gradients: int = 2
    ones: list[int] = field(default_factory=lambda: [ONES])

    def take_statistics(self, norms: Sequence[list[BatchNorm2d]]) -> slice:
        """A row for each list of BatchNorms that share their statistics."""
        first = 1 + len(self.norms)
        self.norms += norms
        return slice(first, first + len(norms))

    def take(self, count: int) -> slice:
        """Rows of gradients, zeros."""
        rows = slice(self.gradients, self.gradients + count)
        self.gradients = rows.stop
        return rows

    def take_ones(self, count: int) -> slice:
        """Rows of gradients that are ones where nothing else is entered."""
        rows = self.take(count)
        self.ones += range(rows.start, rows.stop)
        return rows

    def take_block(self, count: int) -> Block:
        """p of ``count`` terms, then their q, then their r."""
        return Block(self.take(count), self.take(count), self.take(count))


class Tables:
    """Both tables of a cell, as a pass begins with them.

    Args:
        rows: that are taken in all.
        channels: of what is normalized.

    Attributes:
        rows: as given.
    """

    def __init__(self, rows: Rows, channels: int) -> None:
        self.rows = rows
        # BatchNorms with weights have a row of their own (see the families).
        self.affine = [
            (row, norms[0])
            for row, norms in enumerate(rows.norms, 1)
            if norms and norms[0].weight is not None
        ]
        self._all_affine = len(self.affine) == len(rows.norms)
        self._channels = channels
        self._indices: dict[torch.device, Tensor] = {}
        self._templates: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def affine_parameters(self) -> list[nn.Parameter]:
        """Weights of all BatchNorms that have them, then their biases."""
        norms = [norm for _, norm in self.affine]
        return [*(norm.weight for norm in norms), *(norm.bias for norm in norms)]

    def affine_rows(self, parameters: Sequence[Tensor], like: Tensor) -> Tensor | None:
        """Weights and biases [2, 1 + R, C], row by row of the statistics; None where none has any.

        Args:
            parameters: the values of :meth:`affine_parameters`.
            like: of the tables' dtype.
        """
        if not self.affine:
            return None
        values = torch.stack(list(parameters)).to(like.dtype).unflatten(0, (2, -1))
        rows = 1 + len(self.rows.norms)
        table = values.new_zeros(2, rows, values.shape[2])
        table[0] = 1
        if self._all_affine:
            table[:, 1:] = values
            return table
        if like.device not in self._indices:
            places = [row for row, _ in self.affine]
            self._indices[like.device] = torch.tensor(places, device=like.device)
        return table.index_copy_(1, self._indices[like.device], values)

    def affine_gradients(self, table: Tensor, unused: Container[int]) -> list[Tensor | None]:
        """From rows [2, 1 + R, C] to the gradients of :meth:`affine_parameters`.

        None for those of rows that took no part.
        """
        return [None if row in unused else kind[row] for kind in table for row, _ in self.affine]

    def statistics(self, like: Tensor) -> Tensor:
        """A table [5, 1 + R, C] in dtype and device of ``like``; only row 0 is set."""
        table = like.new_empty(5, 1 + len(self.rows.norms), self._channels)
        table[:, PLAIN] = self._template(like)[0]
        return table

    def gradients(self, like: Tensor) -> Tensor:
        """A table [T, C] in dtype and device of ``like``: zeros, and ones where they belong."""
        return self._template(like)[1].clone()

    def _template(self, like: Tensor) -> tuple[Tensor, Tensor]:
        key = like.device, like.dtype
        if key not in self._templates:
            plain = like.new_zeros(5, 1)
            plain[[RSTD, SCALE]] = 1
            gradients = like.new_zeros(self.rows.gradients, self._channels)
            gradients[self.rows.ones] = 1
            self._templates[key] = plain, gradients
        return self._templates[key]
