"""HTML put together such that text can never become markup by accident."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from ssfnas.pictures.style import inline_svg


def joined(parts: Iterable[object]) -> Markup:
    """Everything one after the other, text escaped; None is nothing."""
    return Markup("").join(escape(part) for part in parts if part is not None)


def tag(name: str, *children: object, **attributes: str) -> Markup:
    """An element; ``class_`` stands for the attribute ``class``."""
    pairs = ((key.rstrip("_"), text) for key, text in attributes.items())
    shown = joined(Markup(' {}="{}"').format(*pair) for pair in pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, shown, joined(children))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str = "") -> Markup:
    """A table whose first column names its rows."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    parts = [
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else None,
        tag("tbody", *body),
    ]
    return tag("div", tag("table", *parts, class_=class_), class_="scroll")


class Pictures:
    """Draws the figures of one page, each with ids of its own."""

    def __init__(self) -> None:
        self._count = 0

    def show(self, figure: Figure, caption: str, *, wide: bool = False) -> Markup:
        """A figure with its caption."""
        self._count += 1
        svg = Markup(inline_svg(figure, f"picture{self._count}", caption))
        return tag(
            "figure",
            tag("div", svg, class_="drawing"),
            tag("figcaption", caption),
            class_="wide" if wide else "",
        )
