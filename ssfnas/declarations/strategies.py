"""Ways to search: which weights an edge gives its operations, and what drives the alphas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssfnas.declarations.derivations import Derivation
from ssfnas.declarations.early_stopping import EarlyStopping
from ssfnas.declarations.launching import Launching
from ssfnas.declarations.monitoring import Monitoring
from ssfnas.options import option
from ssfnas.registry import Component, Components

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
FAIRDARTS_OPERATIONS = DARTS_OPERATIONS[1:]


@dataclass(kw_only=True)
class Bilevel(Launching):
    """Strategies that train alphas."""

    supernet: str = option(
        "fast", "form of the supernet", choices=("fast", "reference"), extensible=True
    )
    order: int = option(1, "1: first order; 2: second order (unrolled)", minimum=1, maximum=2)
    alpha_lr: float = option(3e-3, "learning rate of alpha (Adam)", above=0)
    alpha_beta1: float = option(0.9, "Adam's first beta for alpha", minimum=0, below=1)
    alpha_weight_decay: float = option(1e-3, "decay of alpha", minimum=0)
    alpha_warmup_epochs: int = option(
        0, "first epochs in which the weights alone are trained and alpha stays", minimum=0
    )


@dataclass(frozen=True)
class Strategy(Component):
    """A way to search.

    Attributes:
        build: (alphas, config) -> () -> scalar terms, ``"loss"`` among them, which is added to the
            loss of the alphas; None: nothing is added.
        relaxation: name of what makes weights of alphas.
        operations: candidates where the request names none.
        trains_alphas: whether alphas are trained on a supernet, and a genotype is derived from
            them; else genotypes are drawn.
    """

    build: Callable[..., Any] | str | None  # type: ignore[assignment]
    relaxation: str = "sigmoid"
    operations: tuple[str, ...] = FAIRDARTS_OPERATIONS
    trains_alphas: bool = True

    @property
    def reads(self) -> tuple[type, ...]:
        """Its own options, and those of the bilevel steps and their search where there are any."""
        implied = (Bilevel, Derivation, EarlyStopping, Monitoring) if self.trains_alphas else ()
        return (*self.options, *implied)

    def make_regularizer(self, alphas: Any, config: Any) -> Any:
        """What is added to the loss of the alphas; see ``build``."""
        return None if self.build is None else self(alphas, config)


STRATEGIES = Components("strategy", Strategy)


@dataclass(kw_only=True)
class ZeroOne:
    """FairDARTS."""

    w01: float = option(10.0, "weight of the zero-one loss", minimum=0)
    zero_one: str = option("l2", "form of the zero-one loss", choices=("l1", "l2"))


@dataclass(kw_only=True)
class Sampling:
    """Random search."""

    samples: int = option(8, "genotypes that the random strategy tries", minimum=1)


STRATEGIES.add("darts", Strategy(None, relaxation="softmax", operations=DARTS_OPERATIONS))
STRATEGIES.add(
    "fairdarts", Strategy("ssfnas.strategies.regularizers:zero_one_regularizer", (ZeroOne,))
)
STRATEGIES.add("random", Strategy(None, (Sampling,), trains_alphas=False))


@dataclass(kw_only=True)
class StrategyOptions(Bilevel, ZeroOne, Sampling, Monitoring):
    """How to search."""

    strategy: str = option("fairdarts", "how to search", names=STRATEGIES)
