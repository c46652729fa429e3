"""Logged values as lines over time, put into panels by their keys."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ssfnas.evaluation.measure_names import is_number, is_share, named
from ssfnas.pictures.curves import Line
from ssfnas.pictures.numbers import all_keys

_NOT_SHOWN = {"step", "epoch", "wall_time", "sample", "crt_lr"}

# The same quantity of these belongs into one panel; of all others one panel holds what they log.
_SIDES = {"alpha", "weight", "train", "crt", "val", "val_ema", "test", "test_ema"}

# What these log has nothing in common: each has a panel of its own.
_ALONE = {"strategy"}


def lines_over_time(
    metrics: Sequence[Mapping[str, Any]], wanted: Callable[[str], bool]
) -> tuple[str, dict[str, dict[str, Line]]]:
    """Panels of lines: loss by loss, entropy by cell, ...

    Args:
        metrics: what was logged.
        wanted: which keys to show.

    Returns:
        what x is (``"epoch"`` or ``"step"``), and title -> name of a line -> (x, y). Shares are in
        percent.
    """
    keys = all_keys([key for key, v in line.items() if is_number(v)] for line in metrics)
    epochs = [line.get("epoch") for line in metrics]
    by_epoch = all(is_number(epoch) for epoch in epochs) and len(set(epochs)) == len(epochs)
    x_name = "epoch" if by_epoch else "step"
    panels: dict[str, dict[str, Line]] = {}
    for key in keys:
        if key in _NOT_SHOWN or not wanted(key):
            continue
        points = [
            (line[x_name] if is_number(line.get(x_name)) else place, line[key])
            for place, line in enumerate(metrics, 1)
            if is_number(line.get(key))
        ]
        factor = 100 if is_share(key) else 1
        side, _, rest = key.partition("/")
        if not rest:
            title, name = key, key
        elif side in _ALONE:
            title, name = rest, rest
        elif side in _SIDES:
            title, name = rest, side
        else:
            title, name = side, rest
        unit = " (%)" if factor == 100 else ""
        x, y = [point[0] for point in points], [factor * point[1] for point in points]
        panels.setdefault(named(title) + unit, {})[named(name)] = (x, y)
    return x_name, panels


def elapsed(metrics: Sequence[Mapping[str, Any]], started: float | None = None) -> float | None:
    """Seconds that the logged epochs took, about; None with fewer than two times.

    A pause (ten times the median, as between an interruption and its resumption) counts as a
    median epoch, and so does the first one where its start is not known.

    Args:
        metrics: what was logged, with ``wall_time``: seconds since 1970.
        started: when the first epoch began, likewise.
    """
    times = [line["wall_time"] for line in metrics if is_number(line.get("wall_time"))]
    known = started is not None and bool(times) and started <= times[0]
    if known:
        times.insert(0, started)
    if len(times) < 2:
        return None
    spans = [max(0.0, after - before) for before, after in pairwise(times)]
    usual = statistics.median(spans)
    seconds = sum(span if span <= 10 * usual else usual for span in spans)
    return seconds if known else usual + seconds
