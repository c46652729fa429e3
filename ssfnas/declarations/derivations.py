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


PERTURBATION = "perturbation"
"""Reads no weights, but measures the supernet; so ``derive`` alone knows it."""

MEASURES = ("balanced_accuracy", "loss")

_MEASURED: dict[str, tuple[str, ...]] = {"derive": (PERTURBATION,)}


@dataclass(kw_only=True)
class PerturbationOptions:
    """Selection by perturbation."""

    measure: str | None = option(
        None,
        "what the supernet is measured by: balanced accuracy, or the search's loss; absent: the "
        "first where the search used labels",
        choices=MEASURES,
        only_if=_MEASURED,
    )
    measure_images: int = option(
        1024,
        "images that it is measured on, of the half that alphas were trained on",
        minimum=1,
        only_if=_MEASURED,
    )
    device: str = option(
        "auto", "where to measure", choices=("auto", "cpu", "cuda"), only_if=_MEASURED
    )
    threads: int | None = option(
        None,
        "threads that compute; absent: as many as the process may use CPUs (python -m ssfnas.env)",
        minimum=1,
        only_if=_MEASURED,
    )


@dataclass(kw_only=True)
class DerivationOptions(Derivation, Threshold):
    """The rule and the options of all rules."""
