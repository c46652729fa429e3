"""Tables whose cells are shaded by their values: weights of operations, confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ssfnas.pictures.curves import CELL_NAMES, edge_ends, edge_name
from ssfnas.pictures.markup import joined, scrolling, tag


@dataclass(frozen=True)
class HeatCell:
    """One cell.

    Attributes:
        text: what it says.
        strength: of its shade, 0 to 1.
        framed: whether it is marked.
        label: said of it when one points at it.
    """

    text: str
    strength: float
    framed: bool = False
    label: str = ""


def heat_map(
    head: Sequence[str],
    rows: Iterable[tuple[str, Sequence[HeatCell]]],
    caption: str | None = None,
) -> Markup:
    """A table of shaded cells whose first column names the rows; titles of columns stand upright.

    Args:
        head: title of the first column, then of the others; long ones are cut, and shown whole
            when one points at them.
        rows: name and cells of each.
        caption: above it.
    """
    first, *others = head
    titles = [tag("th", tag("span", title, title=title), scope="col") for title in others]
    body = [
        tag("tr", tag("th", name, scope="row", title=name), *(_cell(cell) for cell in cells))
        for name, cells in rows
    ]
    whole = tag(
        "table",
        None if caption is None else tag("caption", caption),
        tag("thead", tag("tr", tag("th", first, scope="col"), *titles)),
        tag("tbody", *body),
        class_="heat",
    )
    return scrolling(whole)


def _cell(cell: HeatCell) -> Markup:
    strength = min(1.0, max(0.0, cell.strength)) if math.isfinite(cell.strength) else 0.0
    attributes = {"style": f"--heat:{round(75 * strength)}%"} if strength > 0 else {}
    if cell.framed:
        attributes["class_"] = "framed"
    if cell.label:
        attributes["title"] = cell.label
    return tag("td", cell.text, **attributes)


def final_weights(
    weights: Mapping[str, NDArray[np.floating]],
    operations: Sequence[str],
    *,
    kept: Mapping[str, set[tuple[str, int, int]]],
) -> Markup:
    """The weights that a genotype is derived from, a table for each cell type.

    Args:
        weights: cell type -> [edges, operations], after the relaxation.
        operations: their names.
        kept: cell type -> the (operation, from, to) of the genotype; framed.
    """
    return joined(
        [
            heat_map(
                ("edge", *operations),
                _weight_rows(values, operations, kept.get(cell, set())),
                f"{CELL_NAMES[cell]} cell",
            )
            for cell, values in weights.items()
        ]
    )


def _weight_rows(
    values: NDArray[np.floating], operations: Sequence[str], kept: set[tuple[str, int, int]]
) -> list[tuple[str, list[HeatCell]]]:
    highest = float(np.nanmax(values, initial=0.0)) or 1.0
    scale = 1.0 if highest > 0.5 else highest
    return [
        (
            edge_name(start, to),
            [
                HeatCell(f"{float(weight):.2f}", float(weight) / scale, (name, start, to) in kept)
                for name, weight in zip(operations, values[row], strict=True)
            ],
        )
        for row, (start, to) in enumerate(edge_ends(values.shape[0]))
    ]


def confusion_matrix(
    names: Sequence[str], counts: Sequence[Sequence[int]], elsewhere: Sequence[int]
) -> Markup:
    """True classes down, predicted ones across; shaded by their share of the row.

    Args:
        names: of the classes.
        counts: images, a row for each true class.
        elsewhere: images of each that were predicted as none of these classes.
    """
    others = any(elsewhere)
    rows = []
    for number, row in enumerate(counts):
        total = sum(row) + elsewhere[number]
        entries = [*zip(names, row, strict=True)]
        if others:
            entries.append(("another class", elsewhere[number]))
        cells = [
            HeatCell(
                str(count) if count else "",
                count / total if total else 0.0,
                column == number,
                f"{count} of {total} images of {names[number]}: predicted {name}",
            )
            for column, (name, count) in enumerate(entries)
        ]
        rows.append((names[number], cells))
    head = ("is, down; predicted, across", *names, *(["another class"] if others else []))
    return heat_map(head, rows)
