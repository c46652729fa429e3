"""Pictures of numbers: weights of operations over time, loss terms, accuracies.

Every function returns a matplotlib figure; nothing is kept in any global state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ssfnas.evaluation.classification_metrics import group_of
from ssfnas.layers.cells import cell_edges, nodes_of
from ssfnas.pictures.many_classes import ClassBars, class_bars
from ssfnas.pictures.numbers import whole
from ssfnas.pictures.style import (
    GROUP_COLORS,
    INK,
    MUTED,
    SERIES,
    WARNING,
    drawing,
    operation_colors,
)

_MOST_COLUMNS = 3
_MOST_CLASS_NAMES = 40
_MOST_TEXTS = 20
_BAR = 0.82
_DASHES = (0, (4, 3))
_AMONG_DATA = {"fontsize": 7.5, "handlelength": 1.2}
_GROUP_LABELS = {"many": "many: over 100", "medium": "medium: 20-100", "few": "few: under 20"}
CELL_NAMES = {"normal": "normal", "reduce": "reduction"}
_STATES = ("cₖ₋₂", "cₖ₋₁")

Line = tuple[Sequence[float], Sequence[float]]


def state_name(state: int) -> str:
    """What pictures call a state of a cell: ``cₖ₋₂``, ``cₖ₋₁``, then the nodes from 0."""
    return _STATES[state] if state < 2 else str(state - 2)


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
) -> Figure:
    """One panel an edge: the weight of every operation after every epoch.

    Args:
        weights: after the relaxation, [epochs + 1, edges, operations].
        operations: their names, in the order of the last axis.
        threshold: drawn as a dashed line.

    Returns:
        panels in rows by the node that an edge leads to, and columns by where it comes from.
    """
    ends = edge_ends(weights.shape[1])
    last = ends[-1][1]
    grid: list[list[Any]] = [
        [ends.index((start, to)) if start < to else "." for start in range(last)]
        for to in range(2, last + 1)
    ]
    colors = operation_colors(operations)
    high = max(float(np.nanmax(weights, initial=0.0)), threshold or 0.0) * 1.05 or 1.0
    with drawing():
        figure = Figure((1.55 * last + 0.4, 1.15 * (last - 1) + 0.6), layout="constrained")
        panels = figure.subplot_mosaic(grid)
        for edge, (start, to) in enumerate(ends):
            axes = panels[edge]
            for name, values in zip(operations, weights[:, edge].T, strict=True):
                axes.plot(values, color=colors[name], linewidth=1.3)
            if threshold is not None:
                axes.axhline(threshold, color=WARNING, linewidth=0.9, linestyle=_DASHES)
            axes.set_title(f"{state_name(start)} → {state_name(to)}", pad=3, size=8)
            axes.set_ylim(0, high)
            axes.label_outer()
            if to == last:
                axes.set_xlabel("epoch")
            if start == 0:
                axes.set_ylabel("weight")
        handles = [Line2D([], [], color=colors[name], label=name) for name in operations]
        if threshold is not None:
            label = f"threshold {threshold:g}"
            handles.append(Line2D([], [], color=WARNING, linestyle=_DASHES, label=label))
        # The upper right half of the grid is empty: room for a legend, unless there is little.
        if last >= 4 and len(handles) <= (10 if last > 4 else 8):
            legend = _legend(figure, handles=handles, loc="upper right", ncols=2 if last > 4 else 1)
            legend.set_in_layout(False)
        else:
            _legend(figure, handles=handles, loc="outside right upper")
            figure.set_figwidth(figure.get_figwidth() + 1.6)
        return figure


def _legend(owner: Axes | Figure, **settings: Any) -> Legend:
    """A legend whose texts are shown as they are, dollar signs included."""
    legend = owner.legend(**settings)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def final_weights(
    weights: Mapping[str, NDArray[np.floating]],
    operations: Sequence[str],
    *,
    kept: Mapping[str, set[tuple[str, int, int]]],
) -> Figure:
    """Heat-maps of the weights that a genotype is derived from, one a cell type.

    Args:
        weights: cell type -> [edges, operations], after the relaxation.
        operations: their names.
        kept: cell type -> the (operation, from, to) of the genotype; framed.
    """
    with drawing(**{"axes.grid": False}):
        edges = max(values.shape[0] for values in weights.values())
        width = 1.2 + 0.52 * len(operations)
        size = (width * len(weights) + 0.3, 0.25 * edges + 1.5)
        figure = Figure(size, layout="constrained")
        panels = figure.subplots(1, len(weights), squeeze=False)[0]
        for axes, (cell, values) in zip(panels, weights.items(), strict=True):
            _heat_map(axes, values, operations, kept.get(cell, set()))
            axes.set_title(f"{CELL_NAMES[cell]} cell")
        return figure


def _heat_map(
    axes: Axes,
    values: NDArray[np.floating],
    operations: Sequence[str],
    kept: set[tuple[str, int, int]],
) -> None:
    ends = edge_ends(values.shape[0])
    highest = float(np.nanmax(values, initial=0.0)) or 1.0
    scale = 1.0 if highest > 0.5 else highest
    for row, (start, to) in enumerate(ends):
        for column, name in enumerate(operations):
            weight = float(values[row, column])
            strength = min(1.0, max(0.0, weight / scale)) if math.isfinite(weight) else 0.0
            square = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=SERIES[0], linewidth=0)
            square.set_alpha(0.75 * strength)
            axes.add_patch(square)
            axes.text(column, row, f"{weight:.2f}", size=6.5, color=INK, ha="center", va="center")
            if (name, start, to) in kept:
                frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False)
                frame.set(edgecolor=WARNING, linewidth=1.6)
                axes.add_patch(frame)
    axes.set(xlim=(-0.5, len(operations) - 0.5), ylim=(len(ends) - 0.5, -0.5))
    names = [f"{state_name(start)} → {state_name(to)}" for start, to in ends]
    axes.set_yticks(range(len(ends)), names)
    axes.set_xticks(range(len(operations)), operations, rotation=40, ha="right", parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def panels_of_lines(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    xlabel: str = "epoch",
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Small multiples of lines: loss terms, entropies, learning curves.

    Args:
        panels: title -> name of a line -> (x, y); the same name has the same color everywhere.
        xlabel: what x is.
        colors: name of a line -> color, where it matters.
    """
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    color = dict(zip(names, itertools.cycle(SERIES), strict=False)) | dict(colors or {})
    columns = min(_MOST_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    with drawing():
        figure = Figure((max(3.1 * columns, 4.2), 1.95 * rows + 0.1), layout="constrained")
        for place, (title, lines) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(rows, columns, place)
            for name, (x, y) in lines.items():
                marker = "o" if len(x) < 3 else None
                axes.plot(x, y, color=color[name], label=name, marker=marker, markersize=3)
            axes.set_title(title, parse_math=False)
            axes.set_xlabel(xlabel)
            axes.margins(x=0.02, y=0.12)
            if list(lines) != [title]:
                _legend(axes, **_AMONG_DATA)
        return figure


def class_accuracy(
    per_class: Mapping[str, Sequence[float]],
    names: Sequence[str],
    counts: Sequence[int] | None = None,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    quantity: str = "accuracy (%)",
) -> Figure:
    """Bars of the accuracy of every class, and above them the size of its training set.

    More than 150 classes stand together (:mod:`ssfnas.pictures.many_classes`).

    Args:
        per_class: what was measured -> value of each class in percent, NaN where it has none. One
            is colored by group; several stand beside each other.
        names: of the classes.
        counts: training images of each class; absent: no sizes.
        groups: ``many``, ``medium``, ``few`` -> classes; absent: one color.
        quantity: what the values are.
    """
    groups = groups or {}
    bars = class_bars(len(names), counts)
    if bars is not None:
        per_class = {label: bars.means(values) for label, values in per_class.items()}
        counts = None if counts is None else [round(size) for size in bars.means(counts)]
        groups, names = bars.groups(groups), [""] * len(bars.members)
    place = np.arange(len(names))
    width = _BAR / len(per_class)
    tone = {name: GROUP_COLORS.get(name, SERIES[0]) for name in groups}
    color = {number: tone[name] for name, classes in groups.items() for number in classes}
    with drawing():
        wanted = 0.42 * len(names) * max(1, len(per_class) / 2) + 1
        figure = Figure((min(11.0, max(5.0, wanted)), 3.3), layout="constrained")
        if counts is None:
            axes = figure.subplots()
        else:
            sizes, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
            sizes.bar(place, counts, color=MUTED, width=_BAR, alpha=0.55)
            sizes.set(yscale="log", ylabel="images", title="training images (log scale)")
        if len(per_class) > 1:
            for order, (label, values) in enumerate(per_class.items()):
                shift = (order - (len(per_class) - 1) / 2) * width
                series = SERIES[order % len(SERIES)]
                axes.bar(place + shift, values, width=width, color=series, label=label)
            _legend(axes, **_AMONG_DATA)
        else:
            (values,) = per_class.values()
            tones = [color.get(number, SERIES[0]) for number in range(len(names))]
            axes.bar(place, values, width=width, color=tones)
            _write_above(axes, values, map(whole, values))
            if len(groups) > 1:
                handles = [Patch(color=tone[name], label=name) for name in groups]
                _legend(axes, handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        axes.set(ylim=(0, 108), ylabel=quantity)
        _name_classes(axes, names, bars)
        return figure


def class_sizes(counts: Sequence[int], names: Sequence[str]) -> Figure:
    """Bars of the training images of every class, colored by group, with a linear axis.

    More than 150 classes stand together (:mod:`ssfnas.pictures.many_classes`).
    """
    bars = class_bars(len(counts), counts)
    if bars is not None:
        counts, names = [round(size) for size in bars.means(counts)], [""] * len(bars.members)
    groups = [group_of(count) for count in counts]
    present = [name for name in _GROUP_LABELS if name in groups]
    with drawing():
        figure = Figure((min(11.0, max(4.5, 0.42 * len(counts) + 1)), 2.4), layout="constrained")
        axes = figure.subplots()
        colors = [GROUP_COLORS[group] for group in groups]
        axes.bar(range(len(counts)), counts, width=_BAR, color=colors)
        _write_above(axes, counts, map(str, counts))
        axes.set_ylabel("training images")
        axes.margins(y=0.1)
        _name_classes(axes, names, bars)
        if len(present) > 1:
            handles = [Patch(color=GROUP_COLORS[n], label=_GROUP_LABELS[n]) for n in present]
            _legend(axes, handles=handles)
        return figure


def _write_above(axes: Axes, heights: Sequence[float], texts: Iterable[str]) -> None:
    """Write a text above each bar, unless bars are many or it has no height."""
    if len(heights) > _MOST_TEXTS:
        return
    for x, (height, text) in enumerate(zip(heights, texts, strict=True)):
        if math.isfinite(height):
            place = (x, height)
            axes.annotate(
                text, place, (0, 2), textcoords="offset points", size=7, color=INK, ha="center"
            )


def _name_classes(axes: Axes, names: Sequence[str], bars: ClassBars | None) -> None:
    """Name the classes below the bars, or number them where they are many."""
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if bars is not None or len(names) > _MOST_CLASS_NAMES:
        axes.set_xlabel("class" if bars is None else bars.label)
        return
    turned = len(names) > 12 or max(map(len, names), default=0) > 9
    short = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    turn: dict[str, Any] = {"rotation": 45, "ha": "right"} if turned else {}
    axes.set_xticks(range(len(names)), short, parse_math=False, **turn)
