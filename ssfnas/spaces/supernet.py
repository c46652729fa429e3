"""The supernet as it is trained: the reference's modules, computed a cell at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_layout import (
    INPUTS,
    PREPROCESSED,
    Bypass,
    Candidate,
    Fusible,
    is_hooked,
)
from ssfnas.fused.fused_network import FusedForm, side_by_side
from ssfnas.layers.cells import MixedEdge, SearchCell, cell_edges
from ssfnas.ops.selection import wants_reference
from ssfnas.spaces.reference import ReferenceSupernet


class Supernet(FusedForm, ReferenceSupernet):
    """:class:`~ssfnas.spaces.reference.ReferenceSupernet`, faster and in less memory.

    Parameters, buffers, names, initial draws and results are the reference's; only the way of
    computing differs. A cell is one step of autograd (:mod:`ssfnas.fused.fused_cell`), images and
    states are channels_last, and running statistics are folded in once a pass for all cells.

    Candidates that are not built in stay modules inside the same cell; they may use their own
    parameters alone. A cell whose BatchNorms are not all in one state (some frozen, some not), or
    in which anything is hooked, is computed as the reference does, and so is everything under
    ``ssfnas.ops.backend("reference")``, which is what can be differentiated twice. Exchanged
    modules and hooks are noticed; attributes that change after the first forward are not.
    """

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""
        if wants_reference():
            return super().forward_features(x)
        mixes = self.mixes()
        tables = {cell: mix.table for cell, mix in mixes.items()}
        fused = self._fused_cells().start()
        s0 = s1 = [self.stem(x.contiguous(memory_format=torch.channels_last))]
        for number, cell in enumerate(self.cells):
            assert isinstance(cell, SearchCell)
            mix = mixes[cell.kind]
            s0, s1 = fused.cell(number, s0, s1, tables[cell.kind], mix.edges, mix.open)
        fused.finish()
        return side_by_side(s1)

    @staticmethod
    def _fusible(cell: nn.Module) -> Fusible | None:
        if type(cell) is not SearchCell or is_hooked(cell) or "forward" in vars(cell):
            return None
        candidates = [
            Candidate(0, INPUTS, cell.preprocess0),
            Candidate(1, INPUTS + 1, cell.preprocess1),
        ]
        bypasses: list[Bypass] = []
        weights = 0
        for edge, (start, to) in zip(cell.edges, cell_edges(cell.nodes), strict=True):
            if type(edge) is not MixedEdge or "forward" in vars(edge):
                return None
            stride = 2 if cell.kind == "reduce" and start < PREPROCESSED else 1
            if cell.share > 1:
                bypasses.append(Bypass(start + INPUTS, to + INPUTS, stride, len(bypasses)))
            for module in edge.operations:
                candidates.append(Candidate(start + INPUTS, to + INPUTS, module, stride, weights))
                weights += 1
        first = INPUTS + PREPROCESSED
        output = range(first, first + cell.nodes)
        return Fusible(candidates, output, weights, share=cell.share, bypasses=bypasses)
