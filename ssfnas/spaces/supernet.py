"""The supernet as it is trained: the reference's modules, computed a cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssfnas.fused.cell_layout import CellLayout
from ssfnas.fused.cell_statistics import Call, Update
from ssfnas.fused.fused_cell import FusedCell
from ssfnas.layers.cells import SearchCell
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.ops.selection import wants_reference
from ssfnas.spaces.reference import ReferenceSupernet


class Supernet(ReferenceSupernet):
    """:class:`~ssfnas.spaces.reference.ReferenceSupernet`, faster and in less memory.

    Parameters, buffers, names, initial draws and results are the reference's; only the way of
    computing differs. A cell is one step of autograd (:mod:`ssfnas.fused.fused_cell`), images and
    states are channels_last, and running statistics are folded in once a pass for all cells.

    Candidates that are not built in stay modules, inside the same cell. A cell whose BatchNorms are
    not all in one state (some frozen, some not) is computed as the reference does, and so is
    everything under ``ssfnas.ops.backend("reference")``, which is what can be differentiated twice.
    Hooks on the modules of built-in candidates are not called.
    """

    _fused: list[FusedCell] | None = None

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""
        if wants_reference():
            return super().forward_features(x)
        updates: list[Update] = []
        weights = self.edge_weights()
        s0 = s1 = self.stem(x.contiguous(memory_format=torch.channels_last))
        for cell, fused in zip(self.cells, self._fused_cells(), strict=True):
            assert isinstance(cell, SearchCell)
            s0, s1 = s1, _cell(cell, fused, s0, s1, weights[cell.kind], updates)
        _fold(updates)
        return s1

    def _fused_cells(self) -> list[FusedCell]:
        if self._fused is None:
            layouts = [CellLayout(cell) for cell in self.cells]  # type: ignore[arg-type]
            self._fused = [FusedCell(layout, len(self.operations)) for layout in layouts]
        return self._fused

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made from the modules, which a copy makes from its own."""
        return {**self.__dict__, "_fused": None}


@torch.compiler.disable
def _cell(
    cell: SearchCell,
    fused: FusedCell,
    s0: Tensor,
    s1: Tensor,
    weights: Tensor,
    updates: list[Update],
) -> Tensor:
    state = _state(fused.layout.norms)
    if state is None or not all(fused.layout.terms):
        return cell(s0, s1, weights)
    call = Call(*state)
    output = fused(call, cell.preprocess0(s0), cell.preprocess1(s1), weights)
    updates += call.updates
    return output


def _state(norms: Sequence[BatchNorm2d]) -> tuple[bool, float, Any] | None:
    """Whether batches are normalized by their own statistics, epsilon and group, if all agree."""
    if not norms:
        return True, 1e-5, None
    states = {
        (norm.training, norm.track_running_stats, norm.eps, norm.momentum, id(norm.group))
        for norm in norms
    }
    first = norms[0]
    if len(states) > 1 or first.momentum is None:
        return None
    own = first.training or first.running_mean is None
    return own, first.eps, first.group if first.training else None


@torch.no_grad()
def _fold(updates: Sequence[Update]) -> None:
    """running = (1 - momentum) running + momentum batch, with unbiased variances, for all at once.

    Counts of batches go up by one, as PyTorch's do. BatchNorms in evaluation, or whose statistics
    are frozen, are left alone.
    """
    running: list[Tensor] = []
    batch: list[Tensor] = []
    counts: list[Tensor] = []
    momentum = 0.0
    for update in updates:
        unbiased = update.var * (update.values / (update.values - 1))
        rows = zip(update.norms, update.mean.unbind(), unbiased.unbind(), strict=True)
        for norms, mean, var in rows:
            for norm in norms:
                if not (norm.training and norm.track_running_stats):
                    continue
                assert norm.momentum is not None
                assert norm.running_mean is not None
                assert norm.running_var is not None
                assert norm.num_batches_tracked is not None
                momentum = norm.momentum
                running += [norm.running_mean, norm.running_var]
                batch += [mean.to(norm.running_mean.dtype), var.to(norm.running_var.dtype)]
                counts.append(norm.num_batches_tracked)
    if running:
        torch._foreach_lerp_(running, batch, momentum)
        torch._foreach_add_(counts, 1)
