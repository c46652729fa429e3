"""The cells of a network, computed a cell at a time where that is what their modules would do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from ssfnas.fused.cell_layout import Fusible, hooks_of
from ssfnas.fused.cell_statistics import Call, Update
from ssfnas.fused.fused_cell import FusedCell
from ssfnas.layers.cells import OpenOperations
from ssfnas.layers.normalization import BatchNorm2d

# Choices of operations whose fused cells are kept: those of both steps, and of what measures.
KEPT_CHOICES = 4


class FusedNetwork:
    """Fused cells, made anew where a module was exchanged or hooked since.

    Args:
        cells: of the network.
        fusible: what a cell is made of, or None where it cannot be fused.
    """

    def __init__(
        self, cells: nn.ModuleList, fusible: Callable[[nn.Module], Fusible | None]
    ) -> None:
        self._cells, self._watched = cells, _Watched(cells)
        self._fusible = fusible
        # Asked once: a search may choose other operations in each step.
        self._made_of: dict[int, Fusible | None] = {}
        self._fused: list[dict[OpenOperations | None, FusedCell | None]] = [{} for _ in cells]

    def fused(self, number: int, chosen: OpenOperations | None = None) -> FusedCell | None:
        """The fused form of a cell with some of its operations alone; None: it has none.

        Args:
            number: of the cell.
            chosen: which operations; None: all.
        """
        known = self._fused[number]
        if chosen not in known:
            if len(known) == KEPT_CHOICES:
                del known[next(iter(known))]
            known[chosen] = self._fuse(number, chosen)
        return known[chosen]

    def _fuse(self, number: int, chosen: OpenOperations | None) -> FusedCell | None:
        if number not in self._made_of:
            self._made_of[number] = self._fusible(self._cells[number])
        parts = self._made_of[number]
        layout = None if parts is None else parts.layout(chosen)
        if parts is None or layout is None:
            return None
        return FusedCell(layout, parts.weights, parts.paths)

    def is_of(self, cells: nn.ModuleList) -> bool:
        """Whether it was made of these, and of the modules and hooks that they have now.

        What is an attribute of a module (the stride of a convolution) is not looked at again.
        """
        return cells is self._cells and not self._watched.has_changed

    def start(self) -> FusedPass:
        """A forward pass through all cells."""
        return FusedPass(self._cells, self)


class FusedForm(nn.Module):
    """What networks have in common whose cells are fused; comes before the textbook form."""

    cells: nn.ModuleList
    _fused: FusedNetwork | None = None

    @staticmethod
    @abstractmethod
    def _fusible(cell: nn.Module) -> Fusible | None:
        """What a cell is made of; None where its modules have to be called."""

    def _fused_cells(self) -> FusedNetwork:
        if self._fused is None or not self._fused.is_of(self.cells):
            self._fused = FusedNetwork(self.cells, self._fusible)
        return self._fused

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made from the modules, which a copy makes from its own."""
        return {**self.__dict__, "_fused": None}


class FusedPass:
    """One forward pass: cells in turn, then :meth:`finish`."""

    def __init__(self, cells: nn.ModuleList, network: FusedNetwork) -> None:
        self._cells, self._network = cells, network
        self._updates: dict[float, list[Update]] = {}

    @torch.compiler.disable
    def cell(
        self,
        number: int,
        s0: Sequence[Tensor],
        s1: Sequence[Tensor],
        weights: Tensor | None = None,
        edges: Tensor | None = None,
        chosen: OpenOperations | None = None,
        *,
        factors: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of the next cell: ``s1`` and the cell's output, see :class:`FusedCell`.

        Its own modules compute it where a part of it is hooked, where its BatchNorms are not all in
        one state, where there are no images, and while a transform or a tracer follows the network.
        """
        fused = self._network.fused(number, chosen)
        state = None if fused is None else _State.of(fused.layout.norms)
        if fused is None or state is None or _is_followed() or s0[0].numel() == 0:
            given = (factors,) if weights is None else (weights, edges, chosen)
            return list(s1), [self._cells[number](side_by_side(s0), side_by_side(s1), *given)]
        call = Call(state.own, state.eps, state.group)
        output, s1 = fused(call, s0, s1, weights, factors, edges)
        if state.momentum is not None:
            self._updates.setdefault(state.momentum, []).extend(call.updates)
        return s1, output

    def finish(self) -> None:
        """Fold the batch's statistics into the running ones."""
        _fold(self._updates)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [N, C, h, w] as one, [N, parts * C, h, w]."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


class _Watched:
    """The modules below one, and what is called with them."""

    def __init__(self, root: nn.Module) -> None:
        parts = list(root.modules())
        self._children = [part._modules for part in parts]
        self._seen_children = [dict(own) for own in self._children]
        self._parameters = [own for part in parts if (own := part._parameters)]
        self._hooks = [hooks for part in parts for hooks in hooks_of(part)]
        self._seen = self._now()

    def _now(self) -> tuple[list[int], list[bool]]:
        return (
            list(map(len, self._hooks)),
            [value is None for own in self._parameters for value in own.values()],
        )

    @property
    def has_changed(self) -> bool:
        """Whether another module is in a place, or hooks or parameters came or went."""
        # Modules equal themselves alone. There are thousands, and this is asked in each pass.
        return self._children != self._seen_children or self._now() != self._seen


def _is_followed() -> bool:
    """Whether every module has hooks, or what is computed is written down or transformed."""
    return (
        torch_modules._has_any_global_hook()
        or torch.jit.is_tracing()
        or torch.compiler.is_exporting()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


class _State(NamedTuple):
    """What the BatchNorms of a cell agree in.

    Attributes:
        own: whether batches are normalized by their own statistics.
        eps: added to variances.
        group: the processes whose batches make one batch.
        momentum: of running statistics; None where a batch leaves them alone.
    """

    own: bool
    eps: float
    group: Any
    momentum: float | None

    @staticmethod
    def of(rows: Sequence[Sequence[BatchNorm2d]]) -> _State | None:
        """That of all of them, or None where they differ, or count batches for their momentum."""
        norms = [norm for row in rows for norm in row]
        states = {
            (norm.training, norm.track_running_stats, norm.eps, norm.momentum, id(norm.group))
            for norm in norms
        }
        first = norms[0]
        if len(states) != 1 or first.momentum is None:
            return None
        own = first.training or first.running_mean is None
        folds = first.training and first.track_running_stats
        group = first.group if first.training else None
        return _State(own, first.eps, group, first.momentum if folds else None)


@torch.no_grad()
def _fold(updates: Mapping[float, Sequence[Update]]) -> None:
    """running = (1 - momentum) running + momentum batch, with unbiased variances, for all at once.

    Counts of batches go up by one, as PyTorch's do.

    Args:
        updates: by momentum.
    """
    for momentum, alike in updates.items():
        old: list[Tensor] = []
        new: list[Tensor] = []
        counts: list[Tensor] = []
        for update in alike:
            unbiased = update.var * (update.values / (update.values - 1))
            # A module looks for its buffers in several places, and there are thousands.
            buffers: list[dict[str, Any]] = [n._buffers for row in update.norms for n in row]
            rows = [row for row, norms in enumerate(update.norms) for _ in norms]
            for kind, batch in (("running_mean", update.mean), ("running_var", unbiased)):
                of_rows = batch.unbind()
                old += [own[kind] for own in buffers]
                new += [of_rows[row] for row in rows]
            counts += [own["num_batches_tracked"] for own in buffers]
        both = zip(old, new, strict=True)
        new = [n if n.dtype is o.dtype else n.to(o.dtype) for o, n in both]
        torch._foreach_lerp_(old, new, momentum)
        torch._foreach_add_(counts, 1)
