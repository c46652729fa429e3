"""Places for the boxes of a layered drawing, such that no two overlap and few lines cross.

Columns go from left to right. Lines run between neighboring columns only; one that goes further
has a flat box in each column between, so that it, too, is kept clear of everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import fmean

_ORDER_SWEEPS = 12
_PLACE_SWEEPS = 150
# How much a line wants to be level, by how many of its two ends are flat.
_PULLS = (1, 2, 8)


@dataclass(eq=False)
class Box:
    """One thing in a column.

    Attributes:
        column: counted from the left.
        height: what it takes, in inches.
        width: of what is seen of it, in inches; a box without is flat, a place that a line passes.
        left, right: the boxes in the neighboring columns that lines lead to.
        y: its middle, downwards; found by :func:`place`.
    """

    column: int
    height: float
    width: float = 0.0
    left: list[Box] = field(default_factory=list)
    right: list[Box] = field(default_factory=list)
    y: float = 0.0


def connect(first: Box, second: Box) -> None:
    """Draw a line from ``first`` to ``second`` in the next column."""
    first.right.append(second)
    second.left.append(first)


def place(boxes: Sequence[Box], gap: float) -> list[list[Box]]:
    """Find the order and the middles of all boxes.

    Args:
        boxes: all of them; their order is the first guess.
        gap: least distance between two boxes of one column, in inches.

    Returns:
        the columns, each from top to bottom; every ``y`` is set, and the topmost edge is 0.
    """
    columns: list[list[Box]] = [[] for _ in range(1 + max(box.column for box in boxes))]
    for box in boxes:
        columns[box.column].append(box)
    columns = _ordered(columns)
    for column in columns:
        _spread(column, [0.0] * len(column), gap)
    for sweep in range(_PLACE_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            _spread(column, [_wanted(box) for box in column], gap)
    top = min(box.y - box.height / 2 for box in boxes)
    for box in boxes:
        box.y -= top
    return columns


def crossings(columns: Sequence[Sequence[Box]]) -> int:
    """How many pairs of lines cross, with the boxes in the order given."""
    count = 0
    for first, second in pairwise(columns):
        lines = [(here, second.index(end)) for here, box in enumerate(first) for end in box.right]
        count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(lines, 2))
    return count


def _ordered(columns: list[list[Box]]) -> list[list[Box]]:
    """The order with the fewest crossings that sweeps of barycenters and of swaps come upon."""
    best, fewest = columns, crossings(columns)
    current = columns
    for sweep in range(_ORDER_SWEEPS):
        current = _swapped(_sweep(current, forward=sweep % 2 == 0))
        count = crossings(current)
        if count < fewest:
            best, fewest = current, count
    return best


def _sweep(columns: list[list[Box]], *, forward: bool) -> list[list[Box]]:
    """Sort each column by the mean places of what its boxes are joined to in the one before."""
    columns = [list(column) for column in columns]
    for fixed, column in pairwise(columns if forward else columns[::-1]):
        barycenters = {}
        for place, box in enumerate(column):
            ends = box.left if forward else box.right
            barycenters[box] = fmean(map(fixed.index, ends)) if ends else place
        column.sort(key=barycenters.__getitem__)
    return columns


def _swapped(columns: list[list[Box]]) -> list[list[Box]]:
    """Swap neighbors as long as that takes crossings away."""
    for number, column in enumerate(columns):
        around = columns[max(0, number - 1) : number + 2]
        count = crossings(around)
        improved = True
        while improved and count:
            improved = False
            for place in range(len(column) - 1):
                pair = column[place : place + 2]
                column[place : place + 2] = reversed(pair)
                swapped = crossings(around)
                if swapped < count:
                    count, improved = swapped, True
                else:
                    column[place : place + 2] = pair
    return columns


def _wanted(box: Box) -> float:
    """The mean height of what a box is joined to; lines through flat boxes pull at it hardest."""
    ends = box.left + box.right
    if not ends:
        return box.y
    pulls = [_PULLS[(box.width, end.width).count(0)] for end in ends]
    return sum(pull * end.y for pull, end in zip(pulls, ends, strict=True)) / sum(pulls)


def _spread(column: list[Box], wanted: list[float], gap: float) -> None:
    """Middles nearest to the wanted ones (least squares) that keep order and distance.

    Less the least distances from the first box, this is isotonic regression: pool the neighbors
    that are in the wrong order.
    """
    offsets = [0.0]
    for above, below in pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + gap)
    pools: list[list[float]] = []
    for middle, offset in zip(wanted, offsets, strict=False):
        pools.append([middle - offset, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size = pools.pop()
            total = pools[-1][0] * pools[-1][1] + mean * size
            pools[-1] = [total / (pools[-1][1] + size), pools[-1][1] + size]
    middles = [mean for mean, size in pools for _ in range(int(size))]
    for box, middle, offset in zip(column, middles, offsets, strict=True):
        box.y = middle + offset
