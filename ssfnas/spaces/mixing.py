"""What a supernet is told of its edges: how each one mixes its operations, and which are open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssfnas.layers.cells import CELL_TYPES, OpenOperations
from ssfnas.spaces.relaxations import RELAXATIONS


class Mix(NamedTuple):
    """How all cells of one type mix.

    Attributes:
        weights: of the operations on each edge, [E, O].
        edges: factors of whole edges, [E], with what passes an edge by; None: ones.
        open: operations that are computed; closed ones cost nothing, and add nothing whatever their
            weights. None: all.
    """

    weights: Tensor
    edges: Tensor | None = None
    open: OpenOperations | None = None

    @property
    def table(self) -> Tensor:
        """What each operation's result is multiplied by, [E, O]."""
        return self.weights if self.edges is None else self.weights * self.edges[:, None]


class Mixing(Protocol):
    """What makes mixes of architecture parameters."""

    def parameters_of(
        self, edges: int, operations: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The first values of all architecture parameters, by the names that a network gives them.

        Args:
            edges, operations: of a cell.
            generator: of draws; None: PyTorch's global one.
        """

    def mixes(self, parameters: Mapping[str, Tensor]) -> dict[str, Mix]:
        """Cell type -> how its cells mix now."""


class Relaxed:
    """Weights that are a relaxation of alphas, and nothing else.

    Args:
        relaxation: a name of :data:`~ssfnas.spaces.relaxations.RELAXATIONS`.

    Raises:
        RequestError: there is no such relaxation.
    """

    def __init__(self, relaxation: str) -> None:
        self._relaxation = RELAXATIONS.get(relaxation)()

    def parameters_of(
        self, edges: int, operations: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """``alphas_normal`` and ``alphas_reduce``, [edges, operations] each."""
        return {
            f"alphas_{cell}": self._relaxation.init(edges, operations, generator)
            for cell in CELL_TYPES
        }

    def mixes(self, parameters: Mapping[str, Tensor]) -> dict[str, Mix]:
        """One weight for each alpha."""
        return {
            cell: Mix(self._relaxation.weights(parameters[f"alphas_{cell}"])) for cell in CELL_TYPES
        }
