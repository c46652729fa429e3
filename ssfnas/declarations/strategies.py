"""Ways to search: which weights an edge gives its operations, and what drives the alphas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssfnas.declarations.closing import CLOSING, ClosingOptions
from ssfnas.declarations.costs import CostOptions, CostTargets
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
    partial_channels: int | None = option(
        None,
        "K: operations see a K-th of the channels while searching, the others pass by (PC-DARTS); "
        "absent: 4 with pcdarts, else 1, all of them",
        minimum=1,
    )
    close_below: float = option(
        0.0,
        "operations whose weight stays below leave the search for good and cost nothing any more; "
        "0: none",
        minimum=0,
        below=1,
        turns_on=CLOSING,
    )


@dataclass(frozen=True)
class Strategy(Component):
    """A way to search.

    Attributes:
        build: (config, space) -> :class:`~ssfnas.strategies.strategy.SearchStrategy`; None where no
            alphas are trained.
        operations: candidates where the request names none.
        trains_alphas: whether alphas are trained on a supernet, and a genotype is derived from
            them; else genotypes are drawn.
        partial_channels: K where the request names none.
        not_recorded: why its steps cannot be recorded in a CUDA graph; empty where they can.
        first_order: why it is of first order alone; empty where it is not.
    """

    build: Callable[..., Any] | str | None  # type: ignore[assignment]
    operations: tuple[str, ...] = FAIRDARTS_OPERATIONS
    trains_alphas: bool = True
    partial_channels: int = 1
    not_recorded: str = ""
    first_order: str = ""

    @property
    def reads(self) -> tuple[type, ...]:
        """Its own options, and those of the bilevel steps and their search where there are any."""
        implied = (Bilevel, CostTargets, Derivation, EarlyStopping, Monitoring)
        return (*self.options, *(implied if self.trains_alphas else ()))

    def partial_channels_of(self, config: Any) -> int:
        """K of a search with this strategy."""
        return config.partial_channels or self.partial_channels


STRATEGIES = Components("strategy", Strategy)


@dataclass(kw_only=True)
class ZeroOne:
    """FairDARTS."""

    w01: float = option(10.0, "weight of the zero-one loss", minimum=0)
    zero_one: str = option("l2", "form of the zero-one loss", choices=("l1", "l2"))


@dataclass(kw_only=True)
class TableNoise:
    """SDARTS."""

    noise_start: float = option(
        0.03, "largest noise on the operations' weights where the weights are trained", minimum=0
    )
    noise_end: float = option(
        0.3, "what that noise would be after the last epoch; in between on a line", minimum=0
    )


@dataclass(kw_only=True)
class BetaDecay:
    """Beta-DARTS."""

    beta_end: float = option(
        50.0, "what the weight of beta decay would be after the last epoch, from 0 on", minimum=0
    )


@dataclass(kw_only=True)
class AuxiliarySkip:
    """DARTS-."""

    auxiliary_skip: float = option(
        1.0, "weight of the auxiliary skip connections in the first epoch; falls to 0", minimum=0
    )


@dataclass(kw_only=True)
class Gumbel:
    """GDAS."""

    tau_start: float = option(
        10.0, "temperature of the first epoch: the higher, the less draws sway gradients", above=0
    )
    tau_end: float = option(0.1, "temperature of the last epoch; in between on a line", above=0)


@dataclass(kw_only=True)
class DirichletPenalty:
    """DrNAS."""

    dirichlet_penalty: str = option(
        "l2",
        "what keeps Dirichlet distributions near the even one: l2, the decay of alpha; kl, their "
        "divergence from it, for which the decay is best 0",
        choices=("l2", "kl"),
    )
    dirichlet_weight: float = option(
        1e-3,
        "weight of the divergence, summed over edges",
        minimum=0,
        only_if={"dirichlet_penalty": ("kl",)},
    )


@dataclass(kw_only=True)
class OperationStopping:
    """OLES."""

    oles_threshold: float = option(
        -0.05,
        "mean cosine of an operation's gradients on both halves below which its weights are no "
        "longer trained",
        minimum=-1,
        maximum=1,
    )
    oles_window: int = option(20, "steps that this mean is of", minimum=1)


@dataclass(kw_only=True)
class Sampling:
    """Random search."""

    samples: int = option(8, "genotypes that the random strategy tries", minimum=1)


_ROOM = "ssfnas.strategies"

STRATEGIES.add("darts", Strategy(f"{_ROOM}.strategy:SearchStrategy", operations=DARTS_OPERATIONS))
STRATEGIES.add("fairdarts", Strategy(f"{_ROOM}.fairdarts:FairDarts", (ZeroOne,)))
STRATEGIES.add(
    "pcdarts",
    Strategy(f"{_ROOM}.pcdarts:PCDarts", operations=DARTS_OPERATIONS, partial_channels=4),
)
STRATEGIES.add("sdarts", Strategy(f"{_ROOM}.sdarts:SmoothDarts", (TableNoise,)))
STRATEGIES.add("beta-darts", Strategy(f"{_ROOM}.betadarts:BetaDarts", (BetaDecay,)))
STRATEGIES.add("darts-minus", Strategy(f"{_ROOM}.dartsminus:DartsMinus", (AuxiliarySkip,)))
STRATEGIES.add(
    "gdas",
    Strategy(
        f"{_ROOM}.gdas:Gdas",
        (Gumbel,),
        operations=DARTS_OPERATIONS,
        not_recorded="gdas runs other operations in each step, and a recorded one has the same",
        first_order="the differences of order 2 are of one network, and gdas draws one a loss",
    ),
)
STRATEGIES.add("drnas", Strategy(f"{_ROOM}.drnas:DrNas", (DirichletPenalty,)))
STRATEGIES.add(
    "oles",
    Strategy(
        f"{_ROOM}.oles:Oles",
        (OperationStopping,),
        operations=DARTS_OPERATIONS,
        first_order="oles compares two gradients at the same weights, of which order 2 has one",
    ),
)
STRATEGIES.add("random", Strategy(None, (Sampling,), trains_alphas=False))


@dataclass(kw_only=True)
class StrategyOptions(
    Bilevel,
    ClosingOptions,
    CostOptions,
    ZeroOne,
    TableNoise,
    BetaDecay,
    AuxiliarySkip,
    Gumbel,
    DirichletPenalty,
    OperationStopping,
    Sampling,
    Monitoring,
):
    """How to search."""

    strategy: str = option("fairdarts", "how to search", names=STRATEGIES)
