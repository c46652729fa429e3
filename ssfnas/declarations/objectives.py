"""What a search minimizes."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component, Components


@dataclass(frozen=True)
class Objective(Component):
    """What a search minimizes; built by :func:`~ssfnas.objectives.search.make_search_objective`.

    Attributes:
        compares_images: within a batch, by a projector: so it needs two images and a layer.
        trains_logits: by labels, so that the network can be asked for classes.
    """

    compares_images: bool = False
    trains_logits: bool = True


OBJECTIVES = Components("objective", Objective)


@dataclass(kw_only=True)
class TwinsOptions:
    """Barlow Twins."""

    lambd: float = option(0.0051, "weight of Barlow Twins' off-diagonal terms", minimum=0)
    projector: list[int] = option([2048, 2048, 2048], "widths of the projector's layers", minimum=1)


@dataclass(kw_only=True)
class JointOptions:
    """Labels and Barlow Twins together."""

    mu: float = option(1.0, "weight of Barlow Twins beside cross-entropy", minimum=0)


_SEARCH = "ssfnas.objectives.search"

OBJECTIVES.add("supervised", Objective(f"{_SEARCH}:Supervised"))
OBJECTIVES.add(
    "ssl",
    Objective(
        f"{_SEARCH}:SelfSupervised", (TwinsOptions,), compares_images=True, trains_logits=False
    ),
)
OBJECTIVES.add(
    "joint", Objective(f"{_SEARCH}:Joint", (TwinsOptions, JointOptions), compares_images=True)
)


@dataclass(kw_only=True)
class ObjectiveOptions(JointOptions, TwinsOptions):
    """What to minimize."""

    objective: str = option(
        "ssl",
        "what to minimize: cross-entropy, Barlow Twins without labels, or both",
        names=OBJECTIVES,
    )
