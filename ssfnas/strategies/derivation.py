"""From the weights of all operations to the few that a genotype keeps (discretization)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssfnas.declarations.derivations import DERIVATIONS
from ssfnas.errors import NumericalError, RequestError
from ssfnas.layers.cells import CELL_TYPES, cell_edges, nodes_of
from ssfnas.spaces import Genotype
from ssfnas.spaces.genotype import Edge, reached

Table = dict[tuple[int, int], list[tuple[float, str]]]
"""Edge (from, to) -> (weight, operation) from the strongest on, ``none`` left out."""

SKIP = "skip_connect"


def two_best(table: Table, nodes: int) -> list[Edge]:
    """For each node the two incoming edges with the largest weight, the best operation on each.

    arXiv 1806.09055, section 2.4.
    """
    kept: list[Edge] = []
    for to in range(2, nodes + 2):
        best = [(*table[start, to][0], start) for start in range(to)]
        # Sorting is stable: of equal weights the lowest index is first.
        best.sort(key=lambda entry: -entry[0])
        kept += [(name, start, to) for _, name, start in best[:2]]
    return kept


def two_best_above(table: Table, nodes: int, threshold: float) -> list[Edge]:
    """As ``darts``, but only operations with at least the threshold's weight: 0 to 2 a node."""
    return [
        (name, start, to)
        for name, start, to in two_best(table, nodes)
        if table[start, to][0][0] >= threshold
    ]


def two_an_edge_above(table: Table, nodes: int, threshold: float) -> list[Edge]:
    """On every edge up to two operations, each with at least the threshold's weight."""
    return [
        (name, start, to)
        for start, to in cell_edges(nodes)
        for weight, name in table[start, to][:2]
        if weight >= threshold
    ]


def two_best_of_a_node(table: Table, nodes: int) -> list[Edge]:
    """For each node the two largest weights of all that arrives; both may be of one edge.

    GDAS, arXiv 1910.04465.
    """
    kept: list[Edge] = []
    for to in range(2, nodes + 2):
        arriving = [(*entry, start) for start in range(to) for entry in table[start, to]]
        arriving.sort(key=lambda entry: -entry[0])
        kept += [(name, start, to) for _, name, start in arriving[:2]]
    return kept


def derive(
    weights: Mapping[str, Tensor],
    operations: Sequence[str],
    rule: str,
    threshold: float = 0.85,
    max_skips: int | None = None,
    **options: Any,
) -> Genotype:
    """The genotype that a rule reads from the weights of the operations.

    Ties go to the lowest index. ``none`` is never kept. A node that keeps no edge, and whatever
    only such nodes feed, is left out.

    Where the normal cell is to have few skip connections, the weakest that it keeps is taken out
    of the table and the rule is asked again, until no more are kept (P-DARTS, arXiv 1904.12760,
    section 3.3). What takes its place may be another skip connection, which is then judged alike.

    Args:
        weights: ``{"normal": [E, O], "reduce": [E, O]}``, after the relaxation; edges in the order
            of :func:`~ssfnas.layers.cells.cell_edges`.
        operations: names of the O columns.
        rule: a name of :data:`DERIVATIONS`.
        threshold: smallest weight that the threshold rules keep.
        max_skips: most skip connections of the normal cell; of equal weights the last goes first.
            None: any number.
        options: of rules, those of plugins; the others' defaults stand.

    Raises:
        RequestError: an unknown rule, tables of a wrong shape, no operation besides ``none``, a
            cell that would be empty, or a negative number of skip connections.
        NumericalError: a weight is NaN or infinite.
    """
    DERIVATIONS.get(rule)
    if max_skips is not None and max_skips < 0:
        raise RequestError(f"max_skips is {max_skips}: it has to be at least 0")
    parts: dict[str, Any] = {}
    for cell in CELL_TYPES:
        table, nodes = _table(cell, weights, operations)
        # In the weights' own precision: 0.9 in fp32 is less than 0.9.
        smallest = float(torch.as_tensor(threshold, dtype=weights[cell].dtype))
        given = {**options, "threshold": smallest}
        read = partial(_read, rule, given, nodes)
        kept, present = _reached(read(table))
        if kept and cell == "normal" and max_skips is not None:
            kept, present = _with_few_skips(read, table, max_skips)
        if not kept:
            raise RequestError(_empty(cell, table, rule, threshold))
        parts |= {cell: kept, f"{cell}_concat": tuple(sorted(present - {0, 1}))}
    return Genotype(**parts)


def _read(rule: str, options: Mapping[str, Any], nodes: int, table: Table) -> list[Edge]:
    edges: list[Edge] = DERIVATIONS.build(rule, options, table, nodes)
    return edges


def _reached(edges: Iterable[Edge]) -> tuple[tuple[Edge, ...], set[int]]:
    return reached(sorted(edges, key=lambda edge: edge[2]))


def _with_few_skips(
    read: Callable[[Table], list[Edge]], table: Table, most: int
) -> tuple[tuple[Edge, ...], set[int]]:
    """What a rule keeps of a table with at most so many skip connections; see :func:`derive`."""
    taken: set[Edge] = set()
    while True:
        kept, present = _reached(edge for edge in read(table) if edge not in taken)
        skips = [(start, to) for name, start, to in kept if name == SKIP]
        if not kept:
            raise RequestError(
                f"the normal cell would be empty with at most {most} skip connections: give a "
                "larger --max-skips, or another rule"
            )
        if len(skips) <= most:
            return kept, present
        # Of equal weights the last edge in the order of the table.
        start, to = min(skips, key=lambda edge: (_weight(table[edge], SKIP), -edge[1], -edge[0]))
        taken.add((SKIP, start, to))
        rest = [entry for entry in table[start, to] if entry[1] != SKIP]
        # A rule finds something on every edge; an edge without anything left comes last.
        table = {**table, (start, to): rest or [(-math.inf, SKIP)]}


def limit(
    genotype: Genotype,
    weights: Mapping[str, Tensor],
    operations: Sequence[str],
    fits: Callable[[Genotype], bool],
    flags: Sequence[str] = ("--max-params", "--max-flops"),
) -> Genotype:
    """Drop operations, the weakest of both cells first, until ``fits`` accepts what is left.

    Of equal weights the last goes first, the reduction cell's before the normal cell's. An
    operation is passed over where a cell would be empty without it.

    Args:
        genotype: what :func:`derive` gave for these weights.
        weights, operations: as for :func:`derive`.
        fits: whether the network of a genotype is small enough.
        flags: those that say what fits, for messages.

    Raises:
        RequestError: not even the smallest genotype that can be reached fits.
    """
    strength = {
        (cell, name, *edge): weight
        for cell in CELL_TYPES
        for edge, entries in _table(cell, weights, operations)[0].items()
        for weight, name in entries
    }
    current = genotype.pruned()
    while not fits(current):
        ranked = sorted(
            (strength[(cell, *edge)], -order, -position, cell, position)
            for order, cell in enumerate(CELL_TYPES)
            for position, edge in enumerate(current.edges(cell))
        )
        smaller = (_without(current, cell, position) for *_, cell, position in ranked)
        found = next(filter(None, smaller), None)
        if found is None:
            raise RequestError(
                f"{' and '.join(flags)} cannot be kept: the network is too large with a single "
                f"operation in each cell; raise {' or '.join(flags)}, or give fewer --channels or "
                "--layers"
            )
        current = found
    return current


def _without(genotype: Genotype, cell: str, position: int) -> Genotype | None:
    """The genotype without one edge, or None where that empties the cell."""
    edges = genotype.edges(cell)
    kept: dict[str, Any] = {cell: edges[:position] + edges[position + 1 :]}
    try:
        return replace(genotype, **kept).pruned()
    except RequestError:
        return None


def _table(
    cell: str, weights: Mapping[str, Tensor], operations: Sequence[str]
) -> tuple[Table, int]:
    if cell not in weights:
        raise RequestError(f"weights of the {cell} cell are missing: give normal and reduce")
    values = torch.as_tensor(weights[cell]).detach().cpu().double()
    if values.dim() != 2 or values.shape[1] != len(operations):
        raise RequestError(
            f"weights of the {cell} cell have the shape {tuple(values.shape)}: "
            f"it has to be [edges, {len(operations)}], a column for each operation"
        )
    if all(name == "none" for name in operations):
        raise RequestError("no operation besides 'none': a genotype needs others to keep")
    nodes = nodes_of(values.shape[0])
    if not bool(values.isfinite().all()):
        raise NumericalError(f"a weight of the {cell} cell is NaN or infinite: none can be kept")
    table: Table = {}
    for edge, row in zip(cell_edges(nodes), values.tolist(), strict=True):
        entries = [entry for entry in zip(row, operations, strict=True) if entry[1] != "none"]
        table[edge] = sorted(entries, key=lambda entry: -entry[0])
    return table, nodes


def _weight(entries: list[tuple[float, str]], operation: str) -> float:
    return next(weight for weight, name in entries if name == operation)


def _empty(cell: str, table: Table, rule: str, threshold: float) -> str:
    largest = sorted(
        ((weight, name, edge) for edge, entries in table.items() for weight, name in entries),
        key=lambda entry: -entry[0],
    )[:3]
    shown = ", ".join(f"{weight:.4f} ({name} {i} -> {j})" for weight, name, (i, j) in largest)
    return (
        f"the {cell} cell would be empty: no operation that {rule} picks has a weight of at least "
        f"the threshold {threshold:g}; the largest weights are {shown}; derive again with a lower "
        "--threshold, or: python -m ssfnas.derive --run DIR --derive darts"
    )
