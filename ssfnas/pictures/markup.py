"""HTML put together such that text can never become markup by accident."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    return scrolling(tag("table", *parts, class_=class_))


def scrolling(content: Markup) -> Markup:
    """What is wider than the screen scrolls in a box of its own, by keyboard too."""
    return tag("div", content, class_="scroll", tabindex="0")


def legend(entries: Iterable[tuple[str, str, str]]) -> Markup | None:
    """What colors mean: (color, text, ``"line"``, ``"dashed"`` or ``"box"``); None without any."""
    shown = [
        tag("span", tag("i", class_=kind, **({"style": f"color:{color}"} if color else {})), text)
        for color, text, kind in entries
    ]
    return tag("div", *shown, class_="legend") if shown else None


@dataclass(frozen=True)
class Panel:
    """One of several small figures.

    Attributes:
        title: above it.
        figure: what is drawn.
        key: see :func:`legend`.
    """

    title: str
    figure: Figure
    key: Sequence[tuple[str, str, str]] = ()


class Pictures:
    """Draws the figures of one page, each with ids of its own."""

    def __init__(self) -> None:
        self._count = 0

    def show(self, figure: Figure, caption: str) -> Markup:
        """A figure in its own size, which scrolls where the screen is smaller, and its caption."""
        drawing = tag("div", self._svg(figure, caption), class_="drawing", tabindex="0")
        return tag("figure", drawing, tag("figcaption", caption))

    def panels(
        self,
        panels: Iterable[Panel],
        caption: str | None = None,
        *,
        key: Sequence[tuple[str, str, str]] = (),
        small: bool = False,
    ) -> Markup:
        """Small figures in as many columns as the screen has room for.

        Args:
            panels: the figures, all of the same size.
            caption: below all.
            key: see :func:`legend`; above all.
            small: whether two columns fit a phone.
        """
        drawn = [
            tag(
                "div",
                tag("h4", panel.title),
                legend(panel.key),
                self._svg(panel.figure, f"{caption or ''} {panel.title}".strip()),
                class_="panel",
            )
            for panel in panels
        ]
        return tag(
            "figure",
            legend(key),
            tag("div", *drawn, class_="panels small" if small else "panels"),
            None if caption is None else tag("figcaption", caption),
        )

    def _svg(self, figure: Figure, description: str) -> Markup:
        self._count += 1
        return Markup(inline_svg(figure, f"picture{self._count}", description))
