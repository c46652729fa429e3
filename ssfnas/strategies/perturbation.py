"""Selection by perturbation: an operation is worth what its removal from the supernet costs.

DARTS-PT (Wang et al., ICLR 2021, arXiv 2108.04392, algorithm 1). The weight of an operation says
little about what it contributes, so the supernet is measured without it:

1. Edge by edge, each operation in turn gets the weight 0. The one whose removal leaves the lowest
   measure stays, with the weight 1, and all others of its edge go.
2. Then, of each node that more than two edges enter, each edge in turn is taken away, and the two
   whose removal leaves the lowest measure stay. The removals of a node are judged one by one, with
   all its other edges there: one that will go is not gone while the next is judged.

Orders of edges and nodes are drawn from a seed. The types of cells take turns: an edge of normal
cells, then one of reduction cells, each with what was decided before it. Weights are not
renormalized where one is taken away. Unlike the paper's, the supernet is not tuned between
decisions: it is measured as the search left it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import NumericalError, RequestError
from ssfnas.layers.cells import CELL_TYPES, cell_edges, nodes_of
from ssfnas.seeding import generator

Measure = Callable[[dict[str, Tensor]], float]
"""``{"normal": [E, O], "reduce": [E, O]}`` -> what the supernet is worth with these weights.

Higher is better.
"""

KEPT_EDGES = 2


@dataclass(frozen=True)
class Decision:
    """Which operation of an edge stays, or which edges of a node.

    Attributes:
        cell: type of the cells.
        place: the edge (from, to) whose operations are judged, or (node,) whose edges are.
        row: of that edge in the tables; None: edges are judged.
        choices: columns of the operations, or rows of the edges; each is taken away once.
        names: of the operations, or the states that the edges come from.
    """

    cell: str
    place: tuple[int, ...]
    row: int | None
    choices: tuple[int, ...]
    names: tuple[str, ...]


class PerturbationSelection:
    """A selection, one measurement after the other; between them it can be left and gone on with.

    Of equal measures the lowest index stays. What has no rival is decided without a measurement.

    Args:
        tables: ``{"normal": [E, O], "reduce": [E, O]}``, the weights that the search ended with,
            after the relaxation. They are not changed.
        operations: names of the O columns; ``none`` never stays.
        seed: of the order of edges and nodes.
        is_open: operations that are there, bool [E, O] by type of cell; None: all. An edge without
            any is no edge.

    Attributes:
        tables: as they stand: rows that are decided are one-hot, those of edges that went are 0.
        decisions: all there are, in their order.
        done: measurements that were taken.
        decided: decisions that were made.
        total: measurements in all.

    Raises:
        RequestError: tables that are no cell's.
    """

    def __init__(
        self,
        tables: Mapping[str, Tensor],
        operations: Sequence[str],
        *,
        seed: int,
        is_open: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.tables = {cell: tables[cell].detach().clone() for cell in CELL_TYPES}
        self._start = {cell: table.clone() for cell, table in self.tables.items()}
        self._operations, self._seed = tuple(operations), seed
        self._columns = {
            cell: [
                tuple(
                    column
                    for column, name in enumerate(operations)
                    if name != "none" and (is_open is None or bool(is_open[cell][row, column]))
                )
                for row in range(len(tables[cell]))
            ]
            for cell in CELL_TYPES
        }
        self.decisions = [
            *_in_turn(self._edges_of(cell) for cell in CELL_TYPES),
            *_in_turn(self._nodes_of(cell) for cell in CELL_TYPES),
        ]
        self.total = sum(len(decision.choices) for decision in self.decisions)
        self._measured: list[list[float]] = []
        self._restart()

    def _edges_of(self, cell: str) -> list[Decision]:
        edges = cell_edges(nodes_of(len(self.tables[cell])))
        found = []
        for row in _order(len(edges), self._seed, cell, "edges"):
            columns = self._columns[cell][row]
            names = tuple(self._operations[column] for column in columns)
            if len(columns) > 1:
                found.append(Decision(cell, edges[row], row, columns, names))
        return found

    def _nodes_of(self, cell: str) -> list[Decision]:
        nodes = nodes_of(len(self.tables[cell]))
        found = []
        for number in _order(nodes, self._seed, cell, "nodes"):
            entering = {
                row: str(start)
                for row, (start, to) in enumerate(cell_edges(nodes))
                if to == number + 2 and self._columns[cell][row]
            }
            if len(entering) > KEPT_EDGES:
                choices, names = tuple(entering), tuple(entering.values())
                found.append(Decision(cell, (number + 2,), None, choices, names))
        return found

    def _restart(self) -> None:
        """The tables at the start, where what has no rival is decided."""
        for cell in CELL_TYPES:
            self.tables[cell] = self._start[cell].clone()
            for row, columns in enumerate(self._columns[cell]):
                if len(columns) < 2:
                    _keep(self.tables[cell][row], columns)

    @property
    def done(self) -> int:
        """See the class."""
        return sum(map(len, self._measured))

    @property
    def decided(self) -> int:
        """See the class."""
        return sum(map(self._is_whole, range(len(self._measured))))

    @property
    def finished(self) -> bool:
        """Whether all is decided: the tables hold 0 and 1 alone, at most two ones a node."""
        return self.done == self.total

    def step(self, measure: Measure) -> None:
        """Take the next measurement, and decide where it was the last that a decision waited for.

        Args:
            measure: is given tables of its own.

        Raises:
            NumericalError: it gives what is no finite number; nothing was counted.
        """
        if not self._measured or self._is_whole(len(self._measured) - 1):
            self._measured.append([])
        number = len(self._measured) - 1
        decision, taken = self.decisions[number], len(self._measured[number])
        tables = {cell: table.clone() for cell, table in self.tables.items()}
        choice = decision.choices[taken]
        if decision.row is None:
            tables[decision.cell][choice] = 0
        else:
            tables[decision.cell][decision.row, choice] = 0
        value = float(measure(tables))
        if not math.isfinite(value):
            place = " -> ".join(map(str, decision.place))
            raise NumericalError(
                f"without {decision.names[taken]} at {place} of the {decision.cell} cell the "
                f"supernet's measure is {value}"
            )
        self._measured[number].append(value)
        if self._is_whole(number):
            self._decide(number)

    def _is_whole(self, number: int) -> bool:
        return len(self._measured[number]) == len(self.decisions[number].choices)

    def _decide(self, number: int) -> None:
        decision, values = self.decisions[number], self._measured[number]
        # Sorting is stable: of equal measures the lowest index is first.
        ranked = [c for _, c in sorted(zip(values, decision.choices, strict=True), key=_value)]
        table = self.tables[decision.cell]
        if decision.row is None:
            table[ranked[KEPT_EDGES:]] = 0
        else:
            _keep(table[decision.row], ranked[:1])

    def state_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what was measured so far, which decides all that is decided."""
        return {
            **self._identity(),
            "decisions": [
                {
                    "cell": decision.cell,
                    "node" if decision.row is None else "edge": list(decision.place),
                    "measured": dict(zip(decision.names, values, strict=False)),
                }
                for decision, values in zip(self.decisions, self._measured, strict=False)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            RequestError: it is the state of another selection, or none.
        """
        known = self._identity()
        if {name: state.get(name) for name in known} != known:
            raise RequestError(
                "the selection that was begun is another one (its weights, operations or seed "
                "differ): remove it to begin anew"
            )
        self._measured = []
        self._restart()
        try:
            for entry in state["decisions"]:
                for value in entry["measured"].values():
                    self.step(partial(_already, value))
            if self.state_dict() != dict(state):
                raise ValueError
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, NumericalError):
            raise RequestError(
                "the selection that was begun is damaged: remove it to begin anew"
            ) from None

    def _identity(self) -> dict[str, Any]:
        """What the same selection is known by."""
        digest = hashlib.sha256()
        for cell in CELL_TYPES:
            digest.update(self._start[cell].cpu().double().numpy().tobytes())
        return {
            "seed": self._seed,
            "operations": list(self._operations),
            "weights": digest.hexdigest()[:16],
            "measurements": self.total,
        }


def select(
    tables: Mapping[str, Tensor],
    operations: Sequence[str],
    measure: Measure,
    *,
    seed: int,
    is_open: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """All of a :class:`PerturbationSelection` at once: tables of 0 and 1.

    Args:
        tables, operations, seed, is_open: see there.
        measure: see :data:`Measure`.
        progress: is told after each measurement how many were taken, of how many.
    """
    selection = PerturbationSelection(tables, operations, seed=seed, is_open=is_open)
    while not selection.finished:
        selection.step(measure)
        if progress is not None:
            progress(selection.done, selection.total)
    return selection.tables


def _keep(row: Tensor, columns: Sequence[int]) -> None:
    row.zero_()
    row[list(columns)] = 1


def _already(value: float, tables: dict[str, Tensor]) -> float:
    return value


def _value(entry: tuple[float, int]) -> float:
    return entry[0]


def _order(count: int, seed: int, cell: str, what: str) -> list[int]:
    draws = generator(seed, "perturbation", cell, what)
    order: list[int] = torch.randperm(count, generator=draws).tolist()
    return order


def _in_turn(lists: Any) -> list[Decision]:
    """The first of each, then the second of each, and so on."""
    return [entry for entry in chain(*zip_longest(*lists)) if entry is not None]
