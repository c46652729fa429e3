"""What cells are made of: each family of candidates as one object that computes them together."""

from __future__ import annotations

from ssfnas.fused.families.entries import Entries
from ssfnas.fused.families.family import Backward, Family, Parts, Use
from ssfnas.fused.families.modules import Modules
from ssfnas.fused.families.pools import Pools
from ssfnas.fused.families.reduces import Reduces
from ssfnas.fused.families.separable_units import SeparableUnits
from ssfnas.fused.families.skips import Skips
from ssfnas.fused.families.zeros import Zeros

# In the order in which they add to the gradient of their state: skip connections make it, and units
# add to what is there; zeros leave it as it was. Modules come last to be asked, since they take
# everything.
FAMILIES: tuple[type[Family], ...] = (
    *(Skips, Modules, Reduces, Pools, Entries, SeparableUnits),
    Zeros,
)

# Those that take a state in several parts, as a cell's inputs come.
OF_PARTS: tuple[type[Family], ...] = (Modules, Reduces, Entries)

__all__ = ["FAMILIES", "OF_PARTS", "Backward", "Family", "Modules", "Parts", "Use"]
