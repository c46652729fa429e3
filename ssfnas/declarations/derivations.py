"""How a genotype is read from the weights of the operations."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component, Components

DERIVATIONS = Components("derivation", Component)
"""``(table, nodes, **own options)`` -> the edges to keep; see :mod:`~.strategies.derivation`."""

_RULES = "ssfnas.strategies.derivation"


@dataclass(kw_only=True)
class Threshold:
    """Derivation by threshold."""

    threshold: float = option(
        0.85, "smallest weight of an operation that is kept", minimum=0, maximum=1
    )


DERIVATIONS.add("darts", Component(f"{_RULES}:two_best"))
DERIVATIONS.add("threshold", Component(f"{_RULES}:two_best_above", (Threshold,)))
DERIVATIONS.add("threshold_edge", Component(f"{_RULES}:two_an_edge_above", (Threshold,)))
DERIVATIONS.add("gdas", Component(f"{_RULES}:two_best_of_a_node"))


@dataclass(kw_only=True)
class Derivation:
    """Derivation."""

    derive: str = option("threshold", "how a genotype is read from the weights", names=DERIVATIONS)


@dataclass(kw_only=True)
class DerivationOptions(Derivation, Threshold):
    """The rule and the options of all rules."""
