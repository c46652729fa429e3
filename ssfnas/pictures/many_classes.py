"""Classes that are too many for a bar each stand together in bars, the largest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BARS = 150
"""More classes than these are drawn together."""
_BARS = 50


@dataclass(frozen=True)
class ClassBars:
    """The classes that each bar stands for.

    Attributes:
        members: numbers of the classes of each bar.
        label: what the axis of the bars is called.
    """

    members: list[NDArray[np.int64]]
    label: str

    def means(self, values: Sequence[float]) -> list[float]:
        """The mean over each bar's classes that have a value; NaN where none has."""
        of_bars = [np.asarray(values, dtype=float)[classes] for classes in self.members]
        known = [part[~np.isnan(part)] for part in of_bars]
        return [float(part.mean()) if len(part) else math.nan for part in known]

    def groups(self, groups: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """Group -> the bars whose middle class is of it; groups without a bar are left out."""
        of_class = {number: name for name, classes in groups.items() for number in classes}
        middle = [of_class.get(int(classes[len(classes) // 2])) for classes in self.members]
        bars = {name: [n for n, own in enumerate(middle) if own == name] for name in groups}
        return {name: numbers for name, numbers in bars.items() if numbers}


def class_bars(classes: int, counts: Sequence[int] | None) -> ClassBars | None:
    """What each bar stands for; None where every class has one of its own.

    Args:
        classes: how many there are.
        counts: their training images, which order them, largest first and equal ones as they come;
            absent: they stand as they come.
    """
    if classes <= MOST_BARS:
        return None
    order = np.arange(classes)
    if counts is not None:
        order = np.argsort(-np.asarray(counts), kind="stable")
    members = np.array_split(order, _BARS)
    largest, smallest = len(members[0]), len(members[-1])
    each = f"{largest}" if largest == smallest else f"{smallest} or {largest}"
    first = ", largest first" if counts is not None else ""
    return ClassBars(members, f"classes{first}; a bar is the mean of {each}")
