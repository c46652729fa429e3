"""Measurements as reports show them: shares in percent, means with spreads, durations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssfnas.evaluation.measure_names import is_number, is_share, shown


def whole(value: float) -> str:
    """The nearest whole number, halves up, as everybody rounds; empty where there is none."""
    # What is a half in decimals need not be one in binary: 100 * 0.285 is a little less than 28.5.
    return str(math.floor(round(value, 6) + 0.5)) if math.isfinite(value) else ""


def tenths(share: float) -> str:
    """A share in percent as captions have it, which never end in the middle of it."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def spread(key: str, values: Sequence[float]) -> str:
    """Mean and sample standard deviation of several runs; one value as it is."""
    if len(set(values)) == 1 and (len(values) == 1 or isinstance(values[0], int)):
        return shown(key, values[0])
    factor, unit, digits = (100, " %", 2) if is_share(key) else (1, "", 4)
    mean = factor * statistics.fmean(values)
    deviation = factor * statistics.stdev(values)
    if unit:
        return f"{mean:.{digits}f} ± {deviation:.{digits}f}{unit}"
    return f"{mean:,.{digits}g} ± {deviation:,.2g}"


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers in nested mappings, under the ``/``-joined keys that lead to them."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.update(scalars(value, f"{name}/"))
        elif is_number(value):
            found[name] = value
    return found


def all_keys(mappings: Iterable[Iterable[str]]) -> list[str]:
    """Every key of several mappings once, in the order in which they first come."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s``, ``45 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
