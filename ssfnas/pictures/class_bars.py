"""Bars of what was measured of every class, as HTML: they fit any screen, and names are text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ssfnas.evaluation.classification_metrics import group_of
from ssfnas.pictures.many_classes import class_bars
from ssfnas.pictures.markup import joined, legend, tag
from ssfnas.pictures.numbers import whole
from ssfnas.pictures.style import GROUP_COLORS, SERIES

HALF_WIDTH = 24
"""More bars than these stand in several columns, over the whole width of a page."""
_GROUP_LABELS = {"many": "many: over 100", "medium": "medium: 20-100", "few": "few: under 20"}


def class_accuracy(
    per_class: Mapping[str, Sequence[float]],
    names: Sequence[str],
    counts: Sequence[int] | None = None,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    chance: float | None = None,
) -> Markup:
    """Bars of the accuracy of every class beside its training images, the largest class first.

    More than 150 classes stand together (:mod:`ssfnas.pictures.many_classes`).

    Args:
        per_class: what was measured -> value of each class in percent, NaN where it has none. One
            is colored by group; several stand below each other.
        names: of the classes.
        counts: training images of each class; absent: classes stand as they come.
        groups: ``many``, ``medium``, ``few`` -> classes; absent: one color.
        chance: percent that guessing gives, drawn as a line.
    """
    groups = groups or {}
    tone = {name: GROUP_COLORS.get(name, SERIES[0]) for name in groups}
    single = len(per_class) == 1
    colors = {label: SERIES[n % len(SERIES)] for n, label in enumerate(per_class)}
    of_class = {number: tone[name] for name, classes in groups.items() for number in classes}
    shown = list(colors.items()) if not single else []
    if single and len(groups) > 1:
        shown = [(name, color) for name, color in tone.items() if groups[name]]
    key = [(color, label, "box") for label, color in shown]
    if chance is not None:
        key.append(("", f"chance, {chance:.3g} %", "line"))
    rows = []
    for members, name in _members(names, counts):
        bars = []
        for label, values in per_class.items():
            value = _mean([values[number] for number in members])
            color = of_class.get(members[len(members) // 2], SERIES[0]) if single else colors[label]
            text = whole(value) or "-"
            bars.append((value / 100, color, text, name if single else f"{name}, {label}"))
        size = "" if counts is None else f"{_mean([counts[n] for n in members]):,.0f}"
        rows.append(_row(name, size, bars))
    head = _row(
        "class", "" if counts is None else "training images", [(math.nan, "", "%", "")], "head"
    )
    return _bars(legend(key), [head, *rows], sized=counts is not None, chance=chance)


def class_sizes(counts: Sequence[int], names: Sequence[str]) -> Markup:
    """Bars of the training images of every class, the largest first, colored by group.

    More than 150 classes stand together (:mod:`ssfnas.pictures.many_classes`).
    """
    present = dict.fromkeys(group_of(count) for count in sorted(counts, reverse=True))
    most = max(counts) or 1
    rows = []
    for members, name in _members(names, counts):
        size = _mean([counts[number] for number in members])
        color = GROUP_COLORS[group_of(round(size))]
        rows.append(_row(name, "", [(size / most, color, f"{size:,.0f}", name)]))
    key = [(GROUP_COLORS[name], _GROUP_LABELS[name], "box") for name in present]
    return _bars(legend(key if len(key) > 1 else []), rows, sized=False)


def _members(names: Sequence[str], counts: Sequence[int] | None) -> list[tuple[list[int], str]]:
    """The classes of each row, and what it is called."""
    together = class_bars(len(names), counts)
    if together is None:
        order = list(range(len(names)))
        if counts is not None:
            order.sort(key=lambda number: -counts[number])
        return [([number], names[number]) for number in order]
    rows, first = [], 1
    for members in together.members:
        rows.append((members.tolist(), f"{first}-{first + len(members) - 1}"))
        first += len(members)
    return rows


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _row(
    name: str, size: str, bars: Sequence[tuple[float, str, str, str]], class_: str = "row"
) -> Markup:
    """Name, size, and bars of (share of the width, color, text behind it, what it is)."""
    drawn = [
        tag(
            "span",
            tag(
                "span",
                None if math.isnan(share) else _bar(share, color),
                class_="track" if color else "none",
            ),
            tag("b", text),
            **({"title": f"{label}: {text}"} if label else {}),
        )
        for share, color, text, label in bars
    ]
    return tag(
        "li",
        tag("span", name, class_="name", title=name),
        tag("span", size, class_="size") if size else None,
        tag("span", *drawn, class_="values"),
        class_=class_,
    )


def _bar(share: float, color: str) -> Markup:
    return tag("i", style=f"width:{100 * min(1.0, max(0.0, share)):.4g}%;background:{color}")


def _bars(
    key: Markup | None, rows: Sequence[Markup], *, sized: bool, chance: float | None = None
) -> Markup:
    style = {} if chance is None else {"style": f"--chance:{chance:.4g}%"}
    kind = "bars" + (" sized" if sized else "") + (" chance" if chance is not None else "")
    kind += " many-rows" if len(rows) > HALF_WIDTH + 1 else ""
    return joined([key, tag("ol", *rows, class_=kind, **style)])
