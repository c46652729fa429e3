"""Pictures of numbers: weights of operations over time, loss terms, accuracies.

Every function returns a matplotlib figure; nothing is kept in any global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ssfnas.pictures.numbers import whole
from ssfnas.pictures.style import (
    GROUP_COLORS,
    INK,
    MUTED,
    SERIES,
    WARNING,
    drawing,
    new_figure,
    operation_colors,
    plain_label,
)

_MOST_CLASS_NAMES = 40
_STATES = ("cₖ₋₂", "cₖ₋₁")

Line = tuple[Sequence[float], Sequence[float]]


def state_name(state: int) -> str:
    """What pictures call a state of a cell: ``cₖ₋₂``, ``cₖ₋₁``, then the nodes from 0."""
    return _STATES[state] if state < 2 else str(state - 2)


def edge_ends(edges: int) -> list[tuple[int, int]]:
    """(from, to) of every edge of a cell, node by node as DARTS counts them.

    Raises:
        ValueError: no number of nodes gives so many edges.
    """
    ends: list[tuple[int, int]] = []
    to = 2
    while len(ends) < edges:
        ends += [(start, to) for start in range(to)]
        to += 1
    if len(ends) != edges:
        raise ValueError(f"{edges} edges fill no whole number of nodes")
    return ends


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
    last = max(to for _, to in ends)
    colors = operation_colors(operations)
    with drawing():
        figure = new_figure(1.55 * last + 0.4, 1.15 * (last - 1) + 0.6)
        panels = figure.subplots(last - 1, last, sharex=True, sharey=True, squeeze=False)
        epochs = np.arange(weights.shape[0])
        high = max(float(np.nanmax(weights, initial=0.0)), threshold or 0.0) * 1.05 or 1.0
        for start in range(last):
            for to in range(2, last + 1):
                axes = panels[to - 2][start]
                if start >= to:
                    axes.remove()
                    continue
                edge = ends.index((start, to))
                for number, name in enumerate(operations):
                    axes.plot(epochs, weights[:, edge, number], color=colors[name], linewidth=1.3)
                if threshold is not None:
                    axes.axhline(threshold, color=WARNING, linewidth=0.9, linestyle=(0, (4, 3)))
                axes.set_title(f"{state_name(start)} → {state_name(to)}", pad=3, size=8)
                axes.set_ylim(0, high)
                if to == last:
                    axes.set_xlabel("epoch")
                if start == 0:
                    axes.set_ylabel("weight")
        handles = [Line2D([], [], color=colors[name], label=name) for name in operations]
        if threshold is not None:
            label = f"threshold {threshold:g}"
            line = Line2D([], [], color=WARNING, linestyle=(0, (4, 3)), label=label)
            handles.append(line)
        # The upper right half of the grid is empty: room for a legend, unless there is little.
        inside = last >= 4 and len(handles) <= (10 if last > 4 else 8)
        where: Literal["upper right", "outside right upper"]
        where = "upper right" if inside else "outside right upper"
        legend = figure.legend(handles=handles, loc=where, ncols=2 if inside and last > 4 else 1)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if inside:
            legend.set_in_layout(False)
        else:
            figure.set_figwidth(figure.get_figwidth() + 1.6)
        return figure


def final_weights(
    weights: Mapping[str, NDArray[np.floating]],
    operations: Sequence[str],
    *,
    kept: Mapping[str, set[tuple[str, int, int]]] | None = None,
) -> Figure:
    """Heat-maps of the weights that a genotype is derived from, one a cell type.

    Args:
        weights: cell type -> [edges, operations], after the relaxation.
        operations: their names.
        kept: cell type -> the (operation, from, to) of the genotype; framed.
    """
    kept = kept or {}
    with drawing(**{"axes.grid": False}):
        edges = max(values.shape[0] for values in weights.values())
        width = 1.2 + 0.52 * len(operations)
        figure = new_figure(width * len(weights) + 0.3, 0.25 * edges + 1.5)
        panels = figure.subplots(1, len(weights), squeeze=False)[0]
        for axes, (cell, values) in zip(panels, weights.items(), strict=True):
            _heat_map(axes, values, operations, kept.get(cell, set()))
            plain_label(axes, "reduction cell" if cell == "reduce" else f"{cell} cell")
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
            place = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(place, 1, 1, facecolor=SERIES[0], alpha=0.75 * strength, linewidth=0)
            )
            axes.text(column, row, f"{weight:.2f}", size=6.5, color=INK, ha="center", va="center")
            if (name, start, to) in kept:
                frame = (column - 0.46, row - 0.46)
                axes.add_patch(
                    Rectangle(frame, 0.92, 0.92, fill=False, edgecolor=WARNING, linewidth=1.6)
                )
    axes.set(xlim=(-0.5, len(operations) - 0.5), ylim=(len(ends) - 0.5, -0.5))
    axes.set_yticks(
        range(len(ends)), [f"{state_name(start)} → {state_name(to)}" for start, to in ends]
    )
    axes.set_xticks(range(len(operations)), operations, rotation=40, ha="right")
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def panels_of_lines(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    xlabel: str = "epoch",
    colors: Mapping[str, str] | None = None,
    columns: int = 3,
) -> Figure:
    """Small multiples of lines: loss terms, entropies, learning curves.

    Args:
        panels: title -> name of a line -> (x, y); the same name has the same color everywhere.
        xlabel: what x is.
        colors: name of a line -> color, where it matters.
        columns: most panels beside each other.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    color = {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)}
    color.update(colors or {})
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    with drawing():
        figure = new_figure(max(3.1 * columns, 4.2), 1.95 * rows + 0.1)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, (title, lines) in zip(grid, panels.items(), strict=False):
            for name, (x, y) in lines.items():
                marker = "o" if len(x) < 3 else None
                axes.plot(x, y, color=color[name], label=name, marker=marker, markersize=3)
            plain_label(axes, title)
            axes.set_xlabel(xlabel)
            axes.margins(x=0.02, y=0.12)
            if len(lines) > 1 or next(iter(lines), title) != title:
                _legend(axes)
        return figure


def _legend(axes: Axes) -> None:
    legend = axes.legend(loc="best", fontsize=7.5, handlelength=1.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def group_of(count: int) -> str:
    """``many`` (over 100 training images), ``medium`` (20 to 100) or ``few``."""
    return "many" if count > 100 else "medium" if count >= 20 else "few"


def class_accuracy(
    per_class: Mapping[str, Sequence[float]],
    names: Sequence[str],
    counts: Sequence[int] | None = None,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    quantity: str = "accuracy (%)",
) -> Figure:
    """Bars of the accuracy of every class, and above them the size of its training set.

    Args:
        per_class: what was measured -> value of each class in percent, NaN where it has none. One
            is colored by group; several stand beside each other.
        names: of the classes.
        counts: training images of each class; absent: no sizes.
        groups: ``many``, ``medium``, ``few`` -> classes; absent: by ``counts``.
        quantity: what the values are.
    """
    place = np.arange(len(names))
    width = 0.82 / len(per_class)
    if groups is None:
        groups = {}
        for number, count in enumerate(counts or ()):
            groups = {**groups, group_of(count): [*groups.get(group_of(count), ()), number]}
    group = {number: name for name, classes in groups.items() for number in classes}
    with drawing():
        wanted = 0.42 * len(names) * max(1, len(per_class) / 2) + 1
        figure = new_figure(min(11.0, max(5.0, wanted)), 3.3)
        if counts is None:
            axes = figure.subplots()
        else:
            sizes, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
            sizes.bar(place, counts, color=MUTED, width=0.82, alpha=0.55)
            sizes.set_yscale("log")
            sizes.set_ylabel("images")
            plain_label(sizes, "training images (log scale)")
        for order, (label, values) in enumerate(per_class.items()):
            shift = (order - (len(per_class) - 1) / 2) * width
            color: list[str] | str = SERIES[order % len(SERIES)]
            if len(per_class) == 1:
                names_of = [group.get(number, "all") for number in range(len(names))]
                color = [GROUP_COLORS.get(name, SERIES[0]) for name in names_of]
            axes.bar(place + shift, values, width=width, color=color, label=label)
            if len(per_class) == 1 and len(names) <= 20:
                _write_above(axes, values, [whole(value) for value in values])
        axes.set_ylim(0, 108)
        axes.set_ylabel(quantity)
        _name_classes(axes, names)
        if len(per_class) > 1:
            _legend(axes)
        elif len(groups) > 1:
            handles = [Patch(color=GROUP_COLORS.get(g, SERIES[0]), label=g) for g in groups]
            axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        return figure


def _write_above(axes: Axes, heights: Sequence[float], texts: Sequence[str]) -> None:
    for x, (height, text) in enumerate(zip(heights, texts, strict=True)):
        if math.isfinite(height):
            point = (x, height)
            axes.annotate(
                text,
                point,
                xytext=(0, 2),
                textcoords="offset points",
                size=7,
                color=INK,
                ha="center",
            )


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Name the classes below the bars, or number them where they are many."""
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if len(names) > _MOST_CLASS_NAMES:
        axes.set_xlabel("class")
        return
    turned = len(names) > 12 or max(map(len, names), default=0) > 9
    short = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    axes.set_xticks(range(len(names)), short)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
        text.set(rotation=45 if turned else 0, ha="right" if turned else "center")


def class_sizes(counts: Sequence[int], names: Sequence[str]) -> Figure:
    """Bars of the training images of every class, colored by group, with a linear axis."""
    place = np.arange(len(counts))
    with drawing():
        figure = new_figure(min(11.0, max(4.5, 0.42 * len(counts) + 1)), 2.4)
        axes = figure.subplots()
        groups = [group_of(count) for count in counts]
        axes.bar(place, counts, width=0.82, color=[GROUP_COLORS[group] for group in groups])
        if len(counts) <= 20:
            _write_above(axes, counts, [str(count) for count in counts])
        axes.set_ylabel("training images")
        axes.margins(y=0.1)
        _name_classes(axes, names)
        present = [name for name in ("many", "medium", "few") if name in groups]
        if len(present) > 1:
            labels = {"many": "many: over 100", "medium": "medium: 20-100", "few": "few: under 20"}
            axes.legend(
                handles=[Patch(color=GROUP_COLORS[name], label=labels[name]) for name in present]
            )
        return figure
