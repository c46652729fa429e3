"""The derived network as it is trained and used: the reference's modules, a cell at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_layout import INPUTS, PREPROCESSED, Candidate, Fusible, is_hooked
from ssfnas.fused.fused_network import FusedForm, side_by_side
from ssfnas.ops.selection import wants_reference
from ssfnas.spaces.reference_derived import DerivedCell, ReferenceDerivedNetwork


class DerivedNetwork(FusedForm, ReferenceDerivedNetwork):
    """:class:`~ssfnas.spaces.reference_derived.ReferenceDerivedNetwork`, faster, in less memory.

    Parameters, buffers, names, initial draws and results are the reference's. A cell is one step of
    autograd (:mod:`ssfnas.fused.fused_cell`), as in a supernet, but with the genotype's edges alone
    and BatchNorms with weights; a dropped path is a factor for each image. Images and states are
    channels_last.

    What :class:`~ssfnas.spaces.supernet.Supernet` says of hooks, of BatchNorms and of
    ``ssfnas.ops.backend("reference")`` holds here as well.
    """

    def _features(self, x: Tensor, *, auxiliary: bool) -> tuple[Tensor, Tensor | None]:
        if wants_reference():
            return super()._features(x, auxiliary=auxiliary)
        logits = None
        factors = self._path_factors(x)
        fused = self._fused_cells().start()
        s0 = s1 = [self.stem(x.contiguous(memory_format=torch.channels_last))]
        for layer, of_cell in enumerate(factors):
            s0, s1 = fused.cell(layer, s0, s1, factors=of_cell)
            if auxiliary and self.auxiliary_head is not None and layer == self.auxiliary_layer:
                logits = self.auxiliary_head(side_by_side(s1))
        fused.finish()
        return side_by_side(s1), logits

    @staticmethod
    def _fusible(cell: nn.Module) -> Fusible | None:
        if type(cell) is not DerivedCell or is_hooked(cell) or "forward" in vars(cell):
            return None
        candidates = [
            Candidate(0, INPUTS, cell.preprocess0),
            Candidate(1, INPUTS + 1, cell.preprocess1),
        ]
        # Nodes that are absent leave no gap here.
        nodes = sorted({to for _, to in cell.edges})
        state = {0: INPUTS, 1: INPUTS + 1}
        state |= {node: INPUTS + PREPROCESSED + place for place, node in enumerate(nodes)}
        paths = 0
        for (start, to), module, droppable in zip(
            cell.edges, cell.operations, cell.droppable, strict=True
        ):
            stride = 2 if cell.reduction and start < PREPROCESSED else 1
            path = paths if droppable else None
            candidates.append(Candidate(state[start], state[to], module, stride, path=path))
            paths += droppable
        return Fusible(candidates, [state[node] for node in cell.concat], paths=paths)
