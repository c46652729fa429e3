"""What the derived network may cost, while its genotype is searched."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component


@dataclass(kw_only=True)
class CountedNetwork:
    """What costs are counted of."""

    cost_weight: float = option(
        1.0, "weight of the share by which the expected cost exceeds the target", minimum=0
    )
    target_channels: int = option(36, "channels of the derived network that is counted", minimum=1)
    target_layers: int = option(20, "cells of the derived network that is counted", minimum=1)


COST = Component("ssfnas.strategies.costs:cost_model", (CountedNetwork,))


@dataclass(kw_only=True)
class CostTargets:
    """A target for the cost of the derived network; one at most."""

    target_flops: int | None = option(
        None, "multiply-adds for one image to stay below", minimum=1, turns_on=COST, off=(None,)
    )
    target_params: int | None = option(
        None, "parameters to stay below", minimum=1, turns_on=COST, off=(None,)
    )
    target_ms: float | None = option(
        None,
        "milliseconds for one image of a batch of 32 to stay below, as a sum of what the parts of "
        "the network take on this device",
        above=0,
        turns_on=COST,
        off=(None,),
    )


@dataclass(kw_only=True)
class CostOptions(CostTargets, CountedNetwork):
    """The targets and what is counted."""
