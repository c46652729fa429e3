"""Pictures of numbers over time: weights of operations, loss terms, accuracies.

Each figure is a small panel of a page, which places as many side by side as the screen has room
for; what colors mean stands beside them as text. Nothing is kept in any global state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ssfnas.layers.cells import cell_edges, nodes_of
from ssfnas.pictures.markup import Panel
from ssfnas.pictures.style import MUTED, SERIES, WARNING, drawing, operation_colors

_SIZE, _SMALL = (3.5, 2.0), (2.1, 1.35)  # inches
_SMALL_TEXT = {"xtick.labelsize": 9.0, "ytick.labelsize": 9.0, "axes.labelsize": 9.0}
_DASHES = (0, (4, 3))
CELL_NAMES = {"normal": "normal", "reduce": "reduction"}
_STATES = ("cₖ₋₂", "cₖ₋₁")

Line = tuple[Sequence[float], Sequence[float]]


def state_name(state: int) -> str:
    """What pictures call a state of a cell: ``cₖ₋₂``, ``cₖ₋₁``, then the nodes from 0."""
    return _STATES[state] if state < 2 else str(state - 2)


def edge_name(start: int, to: int) -> str:
    """What pictures call an edge: ``cₖ₋₁ → 0``."""
    return f"{state_name(start)} → {state_name(to)}"


def edge_ends(edges: int) -> list[tuple[int, int]]:
    """(from, to) of every edge of a cell, node by node as DARTS counts them.

    Raises:
        RequestError: no number of nodes gives so many edges.
    """
    return cell_edges(nodes_of(edges))


def weights_over_time(
    weights: NDArray[np.floating],
    operations: Sequence[str],
    *,
    threshold: float | None = None,
) -> list[Panel]:
    """One panel an edge, node by node: the weight of every operation after every epoch.

    Args:
        weights: after the relaxation, [epochs + 1, edges, operations].
        operations: their names, in the order of the last axis.
        threshold: drawn as a dashed line.
    """
    colors = operation_colors(operations)
    high = max(float(np.nanmax(weights, initial=0.0)), threshold or 0.0) * 1.05 or 1.0
    panels = []
    for edge, ends in enumerate(edge_ends(weights.shape[1])):
        with drawing(**_SMALL_TEXT):
            figure = Figure(_SMALL, layout="constrained")
            axes = figure.subplots()
            for name, values in zip(operations, weights[:, edge].T, strict=True):
                axes.plot(values, color=colors[name], linewidth=1.3)
            if threshold is not None:
                axes.axhline(threshold, color=WARNING, linewidth=0.9, linestyle=_DASHES)
            axes.set_ylim(0, high)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            _whole_ticks(axes, 4)
            panels.append(Panel(edge_name(*ends), figure))
    return panels


def edges_over_time(edges: NDArray[np.floating]) -> dict[str, dict[str, Line]]:
    """Title of a panel -> name of an edge -> its factor after every epoch; a panel a node.

    Args:
        edges: factors, [epochs + 1, edges]; those that enter a node share 1.
    """
    panels: dict[str, dict[str, Line]] = {}
    epochs = [float(epoch) for epoch in range(len(edges))]
    for edge, (start, to) in enumerate(edge_ends(edges.shape[1])):
        lines = panels.setdefault(f"node {state_name(to)}", {})
        lines[f"from {state_name(start)}"] = epochs, edges[:, edge].tolist()
    return panels


def weights_key(
    operations: Sequence[str], threshold: float | None = None
) -> list[tuple[str, str, str]]:
    """What the colors of :func:`weights_over_time` mean."""
    key = [(color, name, "line") for name, color in operation_colors(operations).items()]
    if threshold is not None:
        key.append((WARNING, f"threshold {threshold:g}", "dashed"))
    return key


def panels_of_lines(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    xlabel: str = "epoch",
    colors: Mapping[str, str] | None = None,
    levels: Mapping[str, float] | None = None,
) -> list[Panel]:
    """Small multiples of lines: loss terms, entropies, learning curves.

    Args:
        panels: title -> name of a line -> (x, y); the same name has the same color everywhere.
        xlabel: what x is.
        colors: name of a line -> color, where it matters.
        levels: title -> what chance gives there, drawn as a dashed line.
    """
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    color = dict(zip(names, itertools.cycle(SERIES), strict=False)) | dict(colors or {})
    drawn = []
    for title, lines in panels.items():
        level = (levels or {}).get(title)
        with drawing():
            figure = Figure(_SIZE, layout="constrained")
            axes = figure.subplots()
            for name, (x, y) in lines.items():
                marker = "o" if len(x) < 3 else None
                axes.plot(x, y, color=color[name], marker=marker, markersize=3)
            if level is not None:
                axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=_DASHES)
            axes.set_xlabel(xlabel)
            axes.margins(x=0.02, y=0.12)
            _whole_ticks(axes, 7, all(float(v).is_integer() for x, _ in lines.values() for v in x))
        key = [(color[name], name, "line") for name in lines] if list(lines) != [title] else []
        if level is not None:
            key.append((MUTED, f"chance, {level:.3g}", "dashed"))
        drawn.append(Panel(title, figure, key))
    return drawn


def _whole_ticks(axes: Axes, most: int, whole: bool = True) -> None:
    """Ticks of epochs and steps at whole numbers; a single one is given room around it."""
    low, high = axes.get_xlim()
    if whole and high - low < 1:
        middle = round((low + high) / 2)
        axes.set_xlim(middle - 0.6, middle + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=whole, min_n_ticks=1))
