"""How a data set is made long-tailed."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component


@dataclass(kw_only=True)
class Profile:
    """Long-tailed data."""

    profile: str = option("exp", "how class sizes fall off", choices=("exp", "step"))


LONG_TAIL = Component("ssfnas.data.profiles:long_tail_counts", (Profile,))
