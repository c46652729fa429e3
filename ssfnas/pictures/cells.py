"""Pictures of the two cells of a genotype: inputs at the left, output at the right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath

from ssfnas.errors import RequestError
from ssfnas.pictures.curves import CELL_NAMES, state_name
from ssfnas.pictures.layout import Box, connect, place
from ssfnas.pictures.style import INK, MUTED, NODE, SURFACE, drawing, operation_colors, save_figure

if TYPE_CHECKING:
    from ssfnas.spaces import Genotype

# Inches.
_MARGIN = 0.14
_TITLE_HEIGHT = 0.34
_BETWEEN = 0.13
_NODE_HEIGHT = 0.42
_LINE_HEIGHT = 0.155
_WIRE_HEIGHT = 0.06
# Points.
_TEXT_SIZE = 8.0
_TITLE_SIZE = 9.5
# Characters.
_LONGEST_LINE = 18
_MOST_LINES = 4
# Parts of a name that a line can end behind: they end in an underscore, or where a line is full.
_PARTS = re.compile(rf"[^_]{{0,{_LONGEST_LINE - 1}}}_|[^_]{{1,{_LONGEST_LINE}}}")


@dataclass(eq=False)
class _Shape(Box):
    """A state of the cell, the operation on an edge, or a place that a line passes.

    Attributes:
        text: what is written in it; nothing where a line passes.
        color: of an operation and its line; None for a state.
    """

    text: str = ""
    color: str | None = None


def draw_cell(genotype: Genotype, cell: str) -> Figure:
    """Draw one cell as a layered graph.

    Boxes are the states: both inputs, the intermediate nodes that take part, and the output, which
    concatenates the nodes that thin lines lead from. Each other line is an operation.

    Args:
        genotype: what to draw; nodes that nothing reaches are left out.
        cell: ``"normal"`` or ``"reduce"``.

    Returns:
        a figure as large as the cell needs.

    Raises:
        RequestError: ``cell`` is another word, or the cell is empty.
    """
    if cell not in CELL_NAMES:
        raise RequestError(f"no cell is called '{cell}': it is normal or reduce")
    pruned = genotype.pruned()
    edges = pruned.edges(cell)
    boxes, wires = _graph(edges, pruned.concat(cell))
    spans = _spans(place(boxes, _BETWEEN))
    title = _title(cell, genotype.nodes, {to for _, _, to in edges})
    width = max(spans[-1][1], _text_width(title, _TITLE_SIZE) + _MARGIN) + _MARGIN
    height = max(box.y + box.height / 2 for box in boxes) + _TITLE_HEIGHT + 2 * _MARGIN
    for box in boxes:
        box.y += _TITLE_HEIGHT + _MARGIN
    with drawing():
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        axes.text(_MARGIN, _MARGIN + 0.1, title, size=_TITLE_SIZE, color=INK, va="center")
        for wire in wires:
            _draw_wire(axes, wire, spans)
        for box in boxes:
            if box.text:
                _draw_box(axes, box, sum(spans[box.column]) / 2)
    return figure


def save_cell(genotype: Genotype, cell: str, path: str | Path) -> None:
    """Write :func:`draw_cell`'s picture to a ``.svg`` or ``.png`` file.

    Raises:
        RequestError: as :func:`draw_cell`, or the file cannot be written.
    """
    save_figure(draw_cell(genotype, cell), path)


def _title(cell: str, nodes: int, present: set[int]) -> str:
    absent = [str(node) for node in range(nodes) if node + 2 not in present]
    if not absent:
        return f"{CELL_NAMES[cell]} cell"
    return f"{CELL_NAMES[cell]} cell  (without node{'s' * (len(absent) > 1)} {', '.join(absent)})"


def _graph(
    edges: Sequence[tuple[str, int, int]], concat: Sequence[int]
) -> tuple[list[_Shape], list[list[_Shape]]]:
    """All boxes, and each wire as the boxes that it passes.

    States stand in column 2 l, where l is the length of the longest way to them from the inputs,
    and the operations that lead to them in column 2 l - 1.
    """
    columns = {0: 0, 1: 0}
    for state in sorted({to for _, _, to in edges}):
        columns[state] = 2 + max(columns[start] for _, start, to in edges if to == state)
    nodes = {
        state: _Shape(column, _NODE_HEIGHT, 0.5 if state < 2 else 0.42, text=state_name(state))
        for state, column in columns.items()
    }
    output = _Shape(1 + max(columns.values()), _NODE_HEIGHT, 0.5, text="cₖ")
    colors = operation_colors(sorted(operation for operation, _, _ in edges))
    wires = [
        _wire(nodes[start], _operation(operation, columns[to] - 1, colors[operation]), nodes[to])
        for operation, start, to in edges
    ]
    wires += [_wire(nodes[state], output) for state in concat]
    for wire in wires:
        for first, second in pairwise(wire):
            connect(first, second)
    return [*nodes.values(), *(box for wire in wires for box in wire[1:-1]), output], wires


def _operation(name: str, column: int, color: str) -> _Shape:
    """The box of an operation, as large as its name."""
    lines = _wrapped(name)
    width = 0.2 + max(map(_text_width, lines))
    height = 0.11 + _LINE_HEIGHT * len(lines)
    return _Shape(column, height, width, text="\n".join(lines), color=color)


def _wire(start: _Shape, *ends: _Shape) -> list[_Shape]:
    """A line with a flat box in each column between its start and the next box with a text."""
    between = range(start.column + 1, ends[0].column)
    return [start, *(_Shape(column, _WIRE_HEIGHT) for column in between), *ends]


def _wrapped(name: str) -> list[str]:
    """A long name on several lines, broken behind underscores where it has any."""
    lines = [""]
    for part in _PARTS.findall(name):
        if len(lines[-1]) + len(part) > _LONGEST_LINE:
            lines.append("")
        lines[-1] += part
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][: _LONGEST_LINE - 1] + "…"]
    return lines


def _text_width(text: str, size: float = _TEXT_SIZE) -> float:
    font = FontProperties(family="DejaVu Sans", size=size)
    return float(TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().x1) / 72


def _spans(columns: Sequence[Sequence[Box]]) -> list[tuple[float, float]]:
    """Left and right end of each column; steeper lines before a column get more room."""
    spans: list[tuple[float, float]] = []
    for column in columns:
        left = _MARGIN
        if spans:
            steepest = max(abs(box.y - end.y) for box in column for end in box.left)
            left = spans[-1][1] + min(0.8, max(0.34, 0.3 * steepest))
        spans.append((left, left + max(box.width for box in column)))
    return spans


def _draw_wire(axes: Axes, wire: Sequence[_Shape], spans: Sequence[tuple[float, float]]) -> None:
    """A curve that is level within columns and bends between them, with a head at its end."""
    points = []
    for here, there in pairwise(wire):
        (left, leave), (enter, right) = spans[here.column], spans[there.column]
        start = (left + leave + here.width) / 2 if here.width else leave
        end = (enter + right - there.width) / 2 if there.width else enter
        middle = (leave + enter) / 2
        points += [(start, here.y), (leave, here.y)]
        points += [(middle, here.y), (middle, there.y), (enter, there.y), (end, there.y)]
    codes = [Curve.LINETO, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.LINETO] * (len(wire) - 1)
    codes[0] = Curve.MOVETO
    color = wire[-2].color
    axes.add_patch(
        PathPatch(
            Curve(points, codes),
            fill=False,
            edgecolor=color or MUTED,
            linewidth=1.5 if color else 0.9,
            linestyle="solid" if color else (0, (2.5, 2)),
            zorder=2 if color else 1,
        )
    )
    x, y = points[-1]
    axes.add_patch(
        FancyArrowPatch(
            (x - 0.12, y),
            (x + 0.005, y),
            arrowstyle="-|>,head_length=6,head_width=2.8",
            mutation_scale=1,
            shrinkA=0,
            shrinkB=0,
            linewidth=0,
            color=color or MUTED,
            zorder=3,
        )
    )


def _draw_box(axes: Axes, box: _Shape, x: float) -> None:
    rounding = min(0.13, box.height / 2) if box.color else 0.09
    axes.add_patch(
        FancyBboxPatch(
            (x - box.width / 2, box.y - box.height / 2),
            box.width,
            box.height,
            boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=SURFACE if box.color else NODE,
            edgecolor=box.color or MUTED,
            linewidth=1.3 if box.color else 0.9,
            zorder=4,
        )
    )
    axes.text(
        x,
        box.y,
        box.text,
        size=_TEXT_SIZE if box.color else 10,
        color=INK,
        ha="center",
        va="center_baseline" if box.color else "center",
        linespacing=1.15 if box.color else None,
        parse_math=False,
        zorder=5,
    )
