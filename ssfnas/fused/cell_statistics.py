"""A cell's tables as a pass fills them: statistics of its BatchNorms, coefficients of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.fused.cell_tables import Block, Rows
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.ops.collectives import merged_moments
from ssfnas.ops.norm_coefficients import MEAN, VAR
from ssfnas.ops.primitives import enter_statistics, gradient_coefficients


class Update(NamedTuple):
    """Batch statistics that BatchNorms have to fold into their running ones.

    Attributes:
        norms: for each of R rows, the BatchNorms that it is for.
        mean, var: [R, C], biased.
        values: that a channel has, over all processes.
    """

    norms: list[list[BatchNorm2d]]
    mean: Tensor
    var: Tensor
    values: int | Tensor


@dataclass
class Call:
    """How one forward pass is made, and what it leaves for the modules.

    Attributes:
        batch_statistics: normalize by the batch's own statistics, not by the running ones.
        eps: of every BatchNorm.
        group: the processes whose batches make one batch.
        updates: filled by the forward pass.
        keeps_graphs: whether gradients may be asked for; set when the pass begins.
    """

    batch_statistics: bool
    eps: float
    group: dist.ProcessGroup | None
    updates: list[Update] = field(default_factory=list)
    keeps_graphs: bool = True


class Statistics:
    """The table of a cell's statistics, as sources fill it.

    Args:
        call: of the whole pass.
        rows: of the cell.
        table: [5, 1 + R, C].
        affine: weights and biases of the BatchNorms, [2, 1 + R, C], or None.

    Attributes:
        counts: for each number of values that a channel has here, the one over all processes.
    """

    def __init__(self, call: Call, rows: Rows, table: Tensor, affine: Tensor | None) -> None:
        self.table, self.affine = table, affine
        self.keeps_graphs = call.keeps_graphs
        self.counts: dict[int, int | Tensor] = {}
        self._call, self._norms = call, rows.norms
        self._values_of_row: dict[int, int] = {}

    def enter(self, rows: slice, mean: Tensor, var: Tensor, like: Tensor) -> None:
        """Take the statistics [K, C] of a batch, or the running ones in their place.

        Args:
            rows: where they go.
            mean, var: [K, C], biased.
            like: one of the tensors [N, C, H, W] that have these statistics.

        Raises:
            ValueError: batches are normalized by statistics of a single value.
        """
        call, values = self._call, values_of(like)
        norms = self._norms[rows.start - 1 : rows.stop - 1]
        count: int | Tensor = values
        if not call.batch_statistics:
            mean, var = _running(norms, mean, var)
        elif call.group is not None:
            mean, var, count = merged_moments(mean, var * values, values, call.group)
        if call.batch_statistics and values <= 1 and int(count) <= 1:
            raise ValueError(
                "Expected more than 1 value per channel when training: a cell of the network has "
                f"{values}; enlarge the batch or the images"
            )
        self.counts.setdefault(values, count)
        self._values_of_row |= dict.fromkeys(range(rows.start, rows.stop), values)
        affine = (None, None) if self.affine is None else self.affine[:, rows].unbind()
        enter_statistics(self.table, rows.start, mean, var, call.eps, *affine)

    def finish(self) -> None:
        """Leave what the BatchNorms have to fold in, once all rows are there."""
        if not self._call.batch_statistics:
            return
        first = 1
        for row in range(1, len(self._norms) + 1):
            values = self._values_of_row[row]
            if row < len(self._norms) and self._values_of_row[row + 1] == values:
                continue
            rows = slice(first, row + 1)
            mean, var = self.table[MEAN, rows], self.table[VAR, rows]
            norms = self._norms[first - 1 : row]
            self._call.updates.append(Update(norms, mean, var, self.counts[values]))
            first = row + 1


class Coefficients:
    """The table of p, q and r, as nodes and sources fill it.

    Args:
        call: of the forward pass.
        table: [T, C].
        counts: of :class:`Statistics`.
    """

    def __init__(self, call: Call, table: Tensor, counts: dict[int, int | Tensor]) -> None:
        self.table = table
        self.batch_statistics = call.batch_statistics
        self._group, self._counts = call.group, counts

    def enter(
        self,
        rows: Tensor,
        a: Tensor,
        mean: Tensor,
        rstd: Tensor,
        s0: Tensor,
        s1: Tensor,
        like: Tensor,
    ) -> None:
        """:func:`~ssfnas.ops.norm_coefficients.gradient_coefficients`, over all processes.

        Where statistics are constants there is nothing but p. ``like`` has as many values a channel
        as the sums go over.
        """
        if not self.batch_statistics:
            self.table.index_copy_(0, rows[0], a)
            return
        if self._group is not None:
            sums = torch.cat([s0.reshape(-1, s0.shape[-1]), s1])
            dist.all_reduce(sums, group=self._group)
            s0, s1 = sums[: -len(s1)].view_as(s0), sums[-len(s1) :]
        values = values_of(like)
        # What is not normalized has no count; its q and r are not looked at.
        count = self._counts.get(values, values)
        gradient_coefficients(self.table, rows, a, mean, rstd, s0, s1, count)

    def rows_of(self, block: Block) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """p, q and r; q and r are None where statistics are constants."""
        if not self.batch_statistics:
            return self.table[block.p], None, None
        return self.table[block.p], self.table[block.q], self.table[block.r]


def values_of(x: Tensor) -> int:
    """How many values a channel of [N, C, H, W] has."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def _running(
    norms: Sequence[Sequence[BatchNorm2d]], mean: Tensor, var: Tensor
) -> tuple[Tensor, Tensor]:
    """The BatchNorms' running statistics [R, C], for rows without a BatchNorm what was computed.

    All BatchNorms of a row have seen the same batches, so the first speaks for them.
    """
    means, variances = [], []
    for row, modules in enumerate(norms):
        if modules and modules[0].running_mean is not None:
            assert modules[0].running_var is not None
            means.append(modules[0].running_mean.to(mean.dtype))
            variances.append(modules[0].running_var.to(var.dtype))
        else:
            means.append(mean[row])
            variances.append(var[row])
    return torch.stack(means), torch.stack(variances)
