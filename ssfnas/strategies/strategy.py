"""What a search strategy is: how edges mix, what the alphas minimize beside the loss, and when."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.layers.cells import CELL_TYPES, OpenOperations, edge_count, edges_of_nodes
from ssfnas.runtime.resumable import Resumable
from ssfnas.seeding import generator
from ssfnas.spaces import RELAXATIONS, Mix, ReferenceSupernet

# For what a supernet is asked: the loss of the alphas, that of the weights, and what is decided by
# now, which measurements, derivation and reports look at.
ALPHA, WEIGHT, DECISION = PHASES = ("alpha", "weight", "decision")

HOOKS = (
    *("relaxation", "parameters_of", "weights", "mix", "penalty", "begin_step"),
    *("after_alpha_step", "after_weight_step", "wants_weight_gradients", "weights_first"),
    *("moves_unused", "normalizes_edges", "end_epoch", "kept"),
)
"""What a strategy may say otherwise: methods and attributes of :class:`SearchStrategy`."""

_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Space:
    """What is searched, and where.

    Attributes:
        nodes: intermediate nodes a cell.
        operations: names of the candidates, in the order of the tables' columns.
        partial_channels: K, where operations see a K-th of the channels.
        device, dtype: of the supernet.
    """

    nodes: int
    operations: tuple[str, ...]
    partial_channels: int = 1
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def edges(self) -> int:
        """Of a cell."""
        return edge_count(self.nodes)


@dataclass(frozen=True)
class Moment:
    """When a step is made.

    Attributes:
        step, epoch: its number and that of its epoch, from 0.
        steps, epochs: there are in all; the last may be a short one.
    """

    step: int
    steps: int
    epoch: int
    epochs: int


class SearchStrategy(Resumable):
    """How to search with gradients; as it stands here: DARTS (arXiv 1806.09055).

    Every hook has a default, so a strategy says what it does otherwise. Hooks that are called
    within a step (:meth:`weights`, :meth:`penalty`, :meth:`after_alpha_step`,
    :meth:`after_weight_step`) must not ask the device for a number where steps are recorded in a
    CUDA graph: whatever the host decides or draws for a step, :meth:`begin_step` puts into tensors
    that stay where they are, by :meth:`set`.

    All processes of a run have the same parameters and draw the same.

    Args:
        config: of the search.
        space: what is searched.

    Attributes:
        relaxation: name of what makes weights of alphas.
        normalizes_edges: whether edges of a node share a factor of 1, a softmax of ``betas``
            (PC-DARTS); always so with partial channels, where what passes by needs factors.
        weights_first: whether a step updates the weights before the alphas.
        wants_weight_gradients: whether :meth:`after_alpha_step` is given the weights' gradients.
        moves_unused: whether decay and momentum move weights that have no part in a loss.
        phase: what the supernet is asked for: one of :data:`PHASES`.
        open: for each cell type the operations that are left, bool [E, O] on the CPU.
        told: what is logged each epoch under these names, behind ``strategy/``.
        net: the supernet, once there is one.
    """

    relaxation: ClassVar[str] = "softmax"
    normalizes_edges: bool = False
    weights_first: ClassVar[bool] = False
    wants_weight_gradients: ClassVar[bool] = False
    moves_unused: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ()

    net: ReferenceSupernet

    def __init__(self, config: SearchConfig, space: Space) -> None:
        self.config, self.space = config, space
        self.relaxed = RELAXATIONS.get(self.relaxation)()
        self.normalizes_edges = self.normalizes_edges or space.partial_channels > 1
        self.phase = DECISION
        self.told: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}
        self._numbers: dict[str, float] = {}  # that some of them hold
        sizes = edges_of_nodes(space.nodes)
        entering = torch.tensor([float(size) for size in sizes for _ in range(size)])
        self._entering = entering[:, None].to(space.device, space.dtype)
        shape = space.edges, len(space.operations)
        self.open = {cell: torch.ones(shape, dtype=torch.bool) for cell in CELL_TYPES}
        self._chosen: dict[str, OpenOperations | None] = dict.fromkeys(CELL_TYPES)

    # Parameters and what becomes of them

    def parameters_of(
        self, edges: int, operations: int, draws: torch.Generator | None
    ) -> dict[str, Tensor]:
        """First values of ``alphas_normal`` and ``alphas_reduce`` [E, O], and of ``betas_...`` [E].

        Others may be added; all are trained as the alphas are.
        """
        first = {
            f"alphas_{cell}": self.relaxed.init(edges, operations, draws) for cell in CELL_TYPES
        }
        if self.normalizes_edges:
            first |= {
                f"betas_{cell}": 1e-3 * torch.randn(edges, generator=draws) for cell in CELL_TYPES
            }
        return first

    def weights(self, alpha: Tensor, cell: str) -> Tensor:
        """The weight of each operation in the current :attr:`phase`, fp32 or fp64 [E, O].

        Args:
            alpha: [E, O]; minus infinity where an operation is closed for good, unless all of an
                edge are.
            cell: ``"normal"`` or ``"reduce"``.
        """
        return self.relaxed.weights(alpha)

    def edges(self, beta: Tensor) -> Tensor:
        """Factors of edges: the softmax of ``beta`` [E] over those that enter one node."""
        beta = beta if beta.dtype == torch.float64 else beta.float()
        return torch.cat([part.softmax(0) for part in beta.split(edges_of_nodes(self.space.nodes))])

    def mixes(self, parameters: Mapping[str, Tensor]) -> dict[str, Mix]:
        """How the cells of each type mix in the current :attr:`phase`."""
        return {cell: self.mix(cell, parameters) for cell in CELL_TYPES}

    def mix(self, cell: str, parameters: Mapping[str, Tensor]) -> Mix:
        """How the cells of one type mix in the current :attr:`phase`."""
        edges = self.edges(parameters[f"betas_{cell}"]) if self.normalizes_edges else None
        weights = self._table(self.weights(self.open_alphas(cell, parameters), cell), cell)
        chosen = self._chosen[cell]
        if chosen is None:
            return Mix(weights, edges)
        return Mix(weights * self._tensors[f"open_{cell}"], edges, chosen)

    def _table(self, found: object, cell: str) -> Tensor:
        """What :meth:`weights` gave.

        Raises:
            RequestError: it is no table.
        """
        shape = self.space.edges, len(self.space.operations)
        if isinstance(found, Tensor) and found.shape == shape and found.dtype in _WIDE:
            return found
        what = type(found).__name__
        if isinstance(found, Tensor):
            what = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
        raise RequestError(
            f"--strategy {self.config.strategy}: weights() of the {cell} cell gives {what}: it has "
            f"to be float32 or float64 {list(shape)}, [edges, operations]"
        )

    def open_alphas(self, cell: str, parameters: Mapping[str, Tensor]) -> Tensor:
        """The alphas of one cell type as :meth:`weights` is given them, [E, O]."""
        alpha = parameters[f"alphas_{cell}"]
        if self._chosen[cell] is None:
            return alpha
        left = self._tensors[f"open_{cell}"]
        # A row without any would be a softmax of nothing.
        return alpha.masked_fill((left == 0) & (left.sum(1, keepdim=True) > 0), -torch.inf)

    def decided(self) -> dict[str, Tensor]:
        """What derivation reads: weights [E, O] by cell type, differentiable in the parameters.

        Factors of edges are scaled by how many enter the node, so that they are 1 where nothing is
        decided, and a threshold keeps its meaning.
        """
        with self.in_phase(DECISION):
            mixes = self.mixes(self.net.architecture())
        return {
            cell: mix.table if mix.edges is None else mix.table * self._entering
            for cell, mix in mixes.items()
        }

    def tables(self) -> dict[str, Tensor]:
        """:meth:`decided`, detached, on the CPU."""
        with torch.no_grad():
            return {cell: table.cpu() for cell, table in self.decided().items()}

    # What happens in a step

    def attach(self, net: ReferenceSupernet) -> None:
        """Take the supernet that was made with this strategy, in its place on the device."""
        self.net = net

    def begin_step(self, moment: Moment) -> None:
        """Set what changes from step to step; called on the host before each.

        It is called again with the same moment where a search starts or goes on, and then has to
        give the same again.
        """

    @contextmanager
    def in_phase(self, phase: str) -> Iterator[None]:
        """Mix as a phase wants it inside."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def penalty(self) -> dict[str, Tensor]:
        """Scalars for the alphas: ``"loss"`` is added to theirs, the others are logged."""
        return {}

    def after_alpha_step(self, gradients: Sequence[Tensor | None]) -> None:
        """After an update of the alphas.

        Args:
            gradients: of all weights in the loss of the alphas, where that is wanted; else none.
                fp16 scales them.
        """

    def after_weight_step(self, gradients: Sequence[Tensor | None]) -> None:
        """With the gradients of all weights, scaled by fp16 only, before they are updated."""

    def end_epoch(self, moment: Moment) -> None:
        """After the last step of an epoch in which alphas were trained; ``moment`` is that step."""

    # What hooks are made of

    def alphas(self) -> list[Tensor]:
        """The alphas of the operations that are open, one row of them a cell type."""
        parameters, found = self.net.architecture(), []
        for cell in CELL_TYPES:
            alpha = parameters[f"alphas_{cell}"].flatten()
            if self._chosen[cell] is not None:
                alpha = alpha.index_select(0, self._tensors[f"places_{cell}"])
            found.append(alpha)
        return found

    def set(self, name: str, value: float | Tensor) -> Tensor:
        """Put a value where steps read it, the same place each time; a number is logged as well.

        Args:
            name: of the place, which :meth:`get` finds.
            value: a number, or a tensor on the CPU.
        """
        if not isinstance(value, Tensor):
            self.told[name] = float(value)
            if self._numbers.get(name) == value:
                return self._tensors[name]
            self._numbers[name] = value
            value = torch.tensor(value, dtype=torch.float64)
        value = value.to(self.space.dtype)
        if name not in self._tensors:
            self._tensors[name] = value.to(self.space.device, copy=True)
        if self._tensors[name].device.type == "cuda":
            value = value.pin_memory()  # else the host would wait for the step before
        return self._tensors[name].copy_(value, non_blocking=True)

    def get(self, name: str) -> Tensor:
        """What :meth:`set` put there, on the supernet's device and in its dtype."""
        return self._tensors[name]

    def draws(self, moment: Moment, *names: str) -> torch.Generator:
        """A generator for this step, the same on all processes and after a resumption."""
        return generator(self.config.seed, "strategy", moment.step, *names)

    # Operations that leave the search

    def close(self, open_: Mapping[str, Tensor]) -> None:
        """Leave these operations alone in the search, bool [E, O] by cell type; none comes back.

        Raises:
            RequestError: a node would have none, or a table is no such table.
        """
        for cell, left in open_.items():
            known = self.open.get(cell)
            if known is None or left.dtype != torch.bool or left.shape != known.shape:
                shapes = {name: list(mask.shape) for name, mask in self.open.items()}
                raise RequestError(
                    f"--strategy {self.config.strategy}: close() takes bool tables of what is "
                    f"left, {shapes}, and got {left.dtype} {list(left.shape)} for {cell!r}"
                )
            left = known & left.cpu()
            for node, edges in enumerate(left.split(edges_of_nodes(self.space.nodes))):
                if not bool(edges.any()):
                    raise RequestError(
                        f"--strategy {self.config.strategy} closes all operations of node {node} "
                        f"of the {cell} cell: each node needs one"
                    )
            self.open[cell] = left
            if bool(self.open[cell].all()):
                continue
            self._chosen[cell] = as_open(self.open[cell])
            places = self.open[cell].flatten().nonzero().flatten()
            self._tensors[f"places_{cell}"] = places.to(self.space.device)
            self._tensors[f"open_{cell}"] = self.open[cell].to(self.space.device, self.space.dtype)

    @property
    def graph_key(self) -> object:
        """What a recorded step depends on: with another one it is recorded anew."""
        return tuple(self._chosen.values())

    def frozen(self) -> list[nn.Parameter]:
        """Weights that are no longer trained: those of closed operations."""
        return [
            parameter
            for cell in self.net.cells
            for edge, left in zip(cell.edges, self.open[cell.kind].tolist(), strict=True)  # type: ignore[arg-type,index,union-attr]
            for operation, is_open in zip(edge.operations, left, strict=True)  # type: ignore[union-attr]
            if not is_open
            for parameter in operation.parameters()
        ]

    def frozen_entries(self) -> dict[nn.Parameter, Tensor]:
        """Entries of alphas that are no longer trained: those of closed operations, bool [E, O].

        A strategy whose parameters have other names says itself what becomes of them.
        """
        parameters = self.net.architecture()
        return {
            parameters[f"alphas_{cell}"]: self._tensors[f"open_{cell}"] == 0
            for cell in CELL_TYPES
            if self._chosen[cell] is not None and f"alphas_{cell}" in parameters
        }

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and which operations are left."""
        return {**super().state_dict(), "open": dict(self.open)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        self._chosen = dict.fromkeys(CELL_TYPES)
        self.open = {cell: torch.ones_like(left) for cell, left in self.open.items()}
        self.close(state["open"])


def misspelt_hook(strategy: type[SearchStrategy]) -> tuple[str, str] | None:
    """A public name of the class that comes near one of :data:`HOOKS`, and that hook; None: none.

    Methods are compared with methods, values with values. A name that holds a hook's as a word of
    its own, such as ``l2_penalty``, is another name.
    """
    for name in dir(strategy):
        if name.startswith("_") or hasattr(SearchStrategy, name):
            continue
        kind = callable(getattr(strategy, name))
        alike = [hook for hook in HOOKS if callable(getattr(SearchStrategy, hook)) is kind]
        close = difflib.get_close_matches(name, alike, n=1, cutoff=0.75)
        if close and close[0] not in name.split("_"):
            return name, close[0]
    return None


def as_open(left: Tensor) -> OpenOperations:
    """Bool [E, O] as a cell takes it."""
    return tuple(tuple(row) for row in left.tolist())
