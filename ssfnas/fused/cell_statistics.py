"""A cell's tables as a pass fills them: statistics of its BatchNorms, coefficients of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.fused.cell_tables import Block
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.ops.collectives import merged_moments
from ssfnas.ops.norm_coefficients import MEAN, VAR

Primitives = Callable[[str], Callable[..., Any]]


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
    """

    batch_statistics: bool
    eps: float
    group: dist.ProcessGroup | None
    updates: list[Update] = field(default_factory=list)


class Statistics:
    """The table of a cell's statistics, as sources fill it.

    Args:
        call: of the whole pass.
        primitives: functions by name; an attribute, as is the table.
        table: [4, R, C].
        rows: the BatchNorms of each row but the first.
        values: that a channel of a result has.

    Attributes:
        count: the same, over all processes.

    Raises:
        ValueError: batches are normalized by statistics of a single value.
    """

    def __init__(
        self,
        call: Call,
        primitives: Primitives,
        table: Tensor,
        rows: list[list[BatchNorm2d]],
        values: int,
    ) -> None:
        self.table = table
        self.count: int | Tensor = values
        self.primitives = primitives
        self._call, self._rows, self._values = call, rows, values
        if call.batch_statistics and call.group is None and values <= 1 and rows:
            raise ValueError(
                "Expected more than 1 value per channel when training: a cell of the supernet has "
                f"{values}; enlarge the batch or the images"
            )

    def enter(self, start: int, mean: Tensor, var: Tensor) -> None:
        """Take the statistics [K, C] of a batch, or the running ones in their place."""
        call = self._call
        if not call.batch_statistics:
            mean, var = _running(self._rows[start - 1 : start - 1 + len(mean)], mean, var)
        elif call.group is not None:
            squares = var * self._values
            mean, var, self.count = merged_moments(mean, squares, self._values, call.group)
        self.primitives("enter_statistics")(self.table, start, mean, var, call.eps)

    def finish(self) -> None:
        """Leave what the BatchNorms have to fold in, once all rows are there."""
        if self._call.batch_statistics and self._rows:
            mean, var = self.table[MEAN, 1:], self.table[VAR, 1:]
            self._call.updates.append(Update(self._rows, mean, var, self.count))


class Coefficients:
    """The table of p, q and r, as nodes and sources fill it.

    Args:
        call: of the forward pass.
        primitives: functions by name.
        table: [T, C].
        count: values that a channel has, over all processes.
    """

    def __init__(
        self, call: Call, primitives: Primitives, table: Tensor, count: int | Tensor
    ) -> None:
        self.primitives, self.table = primitives, table
        self.batch_statistics = call.batch_statistics
        self._group, self._count = call.group, count

    def enter(
        self, rows: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, s0: Tensor, s1: Tensor
    ) -> None:
        """:func:`~ssfnas.ops.norm_coefficients.gradient_coefficients`, over all processes.

        Where statistics are constants there is nothing but p.
        """
        if not self.batch_statistics:
            self.table.index_copy_(0, rows[0], a)
            return
        if self._group is not None:
            sums = torch.cat([s0.reshape(-1, s0.shape[-1]), s1])
            dist.all_reduce(sums, group=self._group)
            s0, s1 = sums[: -len(s1)].view_as(s0), sums[-len(s1) :]
        self.primitives("gradient_coefficients")(
            self.table, rows, a, mean, rstd, s0, s1, self._count
        )

    def rows_of(self, block: Block) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """p, q and r; q and r are None where statistics are constants."""
        if not self.batch_statistics:
            return self.table[block.p], None, None
        return self.table[block.p], self.table[block.q], self.table[block.r]


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
