"""Pictures of the two cells of a genotype: inputs at the left, output at the right."""

from __future__ import annotations

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
from ssfnas.pictures.layout import Box, connect, place
from ssfnas.pictures.style import INK, MUTED, NODE, SURFACE, drawing, operation_colors, save_figure

if TYPE_CHECKING:
    from ssfnas.spaces import Genotype

CELLS = ("normal", "reduce")
_TITLES = {"normal": "normal cell", "reduce": "reduction cell"}

# Inches.
_MARGIN = 0.14
_TITLE_HEIGHT = 0.34
_BETWEEN = 0.13
_NODE_HEIGHT = 0.42
_LINE_HEIGHT = 0.155
_WIRE_HEIGHT = 0.06
_TEXT_SIZE = 8.0
_LONGEST_LINE = 18
_MOST_LINES = 4

_MOVE, _LINE, _BEND = int(Curve.MOVETO), int(Curve.LINETO), int(Curve.CURVE4)


@dataclass(eq=False)
class _Node(Box):
    """A state of the cell."""

    text: str = ""
    width: float = 0.0


@dataclass(eq=False)
class _Label(Box):
    """The operation on an edge, where the edge passes."""

    operation: str = ""
    text: str = ""
    width: float = 0.0


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
    if cell not in CELLS:
        raise RequestError(f"no cell is called '{cell}': it is normal or reduce")
    pruned = genotype.pruned()
    edges = pruned.edges(cell)
    boxes, wires = _graph(edges, pruned.concat(cell))
    place(boxes, _BETWEEN)
    with drawing():
        return _draw(boxes, wires, _title(cell, genotype.nodes, {to for _, _, to in edges}))


def save_cell(genotype: Genotype, cell: str, path: str | Path) -> None:
    """Write :func:`draw_cell`'s picture to a ``.svg`` or ``.png`` file.

    Raises:
        RequestError: as :func:`draw_cell`, or the file cannot be written.
    """
    save_figure(draw_cell(genotype, cell), path)


def _title(cell: str, nodes: int, present: set[int]) -> str:
    absent = [str(node) for node in range(nodes) if node + 2 not in present]
    if not absent:
        return _TITLES[cell]
    return f"{_TITLES[cell]}  (without node{'s' * (len(absent) > 1)} {', '.join(absent)})"


def _layers(edges: Sequence[tuple[str, int, int]]) -> dict[int, int]:
    """State -> the length of the longest way to it from the inputs."""
    layers = {0: 0, 1: 0}
    for state in sorted({to for _, _, to in edges}):
        layers[state] = 1 + max(layers[start] for _, start, to in edges if to == state)
    return layers


def _graph(
    edges: Sequence[tuple[str, int, int]], concat: Sequence[int]
) -> tuple[list[Box], list[list[Box]]]:
    """All boxes, and each wire as the boxes that it passes.

    States of layer l stand in column 2 l, and the operations that lead to them in column 2 l - 1.
    """
    layers = _layers(edges)
    nodes: dict[int, Box] = {}
    for state, layer in layers.items():
        text = ("cₖ₋₂", "cₖ₋₁")[state] if state < 2 else str(state - 2)
        width = 0.5 if state < 2 else 0.42
        nodes[state] = _Node(2 * layer, _NODE_HEIGHT, text=text, width=width)
    output = _Node(
        1 + max(node.column for node in nodes.values()), _NODE_HEIGHT, text="cₖ", width=0.5
    )
    wires = []
    boxes = list(nodes.values())
    for operation, start, to in edges:
        text = _wrapped(operation)
        label = _Label(
            nodes[to].column - 1,
            0.11 + _LINE_HEIGHT * (1 + text.count("\n")),
            operation=operation,
            text=text,
            width=0.2 + max(map(_text_width, text.split("\n"))),
        )
        wires.append(_wire(nodes[start], [label, nodes[to]]))
    wires.extend(_wire(nodes[state], [output]) for state in concat)
    for wire in wires:
        boxes.extend(box for box in wire[1:-1])
        for first, second in pairwise(wire):
            connect(first, second)
    return [*boxes, output], wires


def _wire(start: Box, ends: list[Box]) -> list[Box]:
    between = [
        Box(column, _WIRE_HEIGHT, flat=True) for column in range(start.column + 1, ends[0].column)
    ]
    return [start, *between, *ends]


def _wrapped(name: str) -> str:
    """A long name on several lines, broken behind underscores where it has any."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        while part:
            room = _LONGEST_LINE - len(lines[-1])
            if len(part) <= room:
                lines[-1] += part
                break
            if lines[-1]:
                lines.append("")
            else:
                lines[-1], part = part[:_LONGEST_LINE], part[_LONGEST_LINE:]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][: _LONGEST_LINE - 1] + "…"]
    return "\n".join(lines)


def _text_width(text: str) -> float:
    font = FontProperties(family="DejaVu Sans", size=_TEXT_SIZE)
    return float(TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().x1) / 72


def _width(box: Box) -> float:
    return box.width if isinstance(box, (_Node, _Label)) else 0.0


def _columns_x(boxes: Sequence[Box]) -> list[tuple[float, float]]:
    """Left and right end of each column; steeper lines before a column get more room."""
    count = 1 + max(box.column for box in boxes)
    widths = [0.0] * count
    steepest = [0.0] * count
    for box in boxes:
        widths[box.column] = max(widths[box.column], _width(box))
        for end in box.left:
            steepest[box.column] = max(steepest[box.column], abs(box.y - end.y))
    columns = []
    x = _MARGIN
    for column, width in enumerate(widths):
        if column:
            x += min(0.8, max(0.34, 0.3 * steepest[column]))
        columns.append((x, x + width))
        x += width
    return columns


def _draw(boxes: Sequence[Box], wires: Sequence[Sequence[Box]], title: str) -> Figure:
    columns = _columns_x(boxes)
    title_width = _text_width(title) * 9.5 / _TEXT_SIZE
    width = max(columns[-1][1], title_width + _MARGIN) + _MARGIN
    height = max(box.y + box.height / 2 for box in boxes) + _TITLE_HEIGHT + 2 * _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(_MARGIN, _MARGIN + 0.1, title, size=9.5, color=INK, va="center")
    names = [box.operation for box in boxes if isinstance(box, _Label)]
    colors = operation_colors(sorted(names))
    top = _TITLE_HEIGHT + _MARGIN
    for wire in wires:
        labels = [box.operation for box in wire if isinstance(box, _Label)]
        _draw_wire(axes, wire, columns, top, colors[labels[0]] if labels else None)
    for box in boxes:
        left, right = columns[box.column]
        if isinstance(box, _Node):
            _draw_node(axes, box, (left + right) / 2, box.y + top)
        elif isinstance(box, _Label):
            _draw_label(axes, box, (left + right) / 2, box.y + top, colors[box.operation])
    return figure


def _draw_wire(
    axes: Axes,
    wire: Sequence[Box],
    columns: Sequence[tuple[float, float]],
    top: float,
    color: str | None,
) -> None:
    """A curve that is level within columns and bends between them, with a head at its end."""
    points: list[tuple[float, float]] = []
    codes: list[int] = []

    def draw_to(code: int, *new: tuple[float, float]) -> None:
        points.extend(new)
        codes.extend([code] * len(new))

    for here, there in pairwise(wire):
        (left, leave), (enter, right) = columns[here.column], columns[there.column]
        start = (left + leave + _width(here)) / 2 if _width(here) else leave
        end = (enter + right - _width(there)) / 2 if _width(there) else enter
        y, end_y = here.y + top, there.y + top
        draw_to(_LINE if points else _MOVE, (start, y))
        draw_to(_LINE, (leave, y))
        middle = (leave + enter) / 2
        draw_to(_BEND, (middle, y), (middle, end_y), (enter, end_y))
        draw_to(_LINE, (end, end_y))
    operation = color is not None
    axes.add_patch(
        PathPatch(
            Curve(points, codes),
            fill=False,
            edgecolor=color or MUTED,
            linewidth=1.5 if operation else 0.9,
            linestyle="solid" if operation else (0, (2.5, 2)),
            zorder=2 if operation else 1,
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


def _draw_node(axes: Axes, node: _Node, x: float, y: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - node.width / 2, y - node.height / 2),
            node.width,
            node.height,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=NODE,
            edgecolor=MUTED,
            linewidth=0.9,
            zorder=4,
        )
    )
    axes.text(x, y, node.text, size=10, color=INK, ha="center", va="center", zorder=5)


def _draw_label(axes: Axes, label: _Label, x: float, y: float, color: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - label.width / 2, y - label.height / 2),
            label.width,
            label.height,
            boxstyle=f"round,pad=0,rounding_size={min(0.13, label.height / 2)}",
            facecolor=SURFACE,
            edgecolor=color,
            linewidth=1.3,
            zorder=4,
        )
    )
    axes.text(
        x,
        y,
        label.text,
        size=_TEXT_SIZE,
        color=INK,
        ha="center",
        va="center_baseline",
        linespacing=1.15,
        parse_math=False,
        zorder=5,
    )
