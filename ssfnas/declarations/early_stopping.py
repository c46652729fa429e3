"""What stops a search before its last epoch."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component, Components


@dataclass(frozen=True)
class EarlyStop(Component):
    """A rule that stops a search; built from the config.

    Attributes:
        measures: the logged value that it is given after each epoch; :data:`TOP_EIGENVALUE` is
            logged only where it is asked for.
    """

    measures: str = "skips/normal"


STOPPERS = Components("early stopping rule", EarlyStop)

TOP_EIGENVALUE = "hessian/top_eigenvalue"

_RULES = "ssfnas.strategies.early_stopping"


@dataclass(kw_only=True)
class Patience:
    """Patience of early stopping."""

    early_stop_after: int = option(
        10, "epochs of training alpha before which nothing stops the search", minimum=0
    )


@dataclass(kw_only=True)
class SkipLimit:
    """Early stopping by skip connections."""

    max_skips: int = option(2, "skip connections in the normal cell at which to stop", minimum=1)


@dataclass(kw_only=True)
class EigenvalueGrowth:
    """Early stopping by the Hessian's top eigenvalue."""

    hessian_window: int = option(5, "epochs over which the eigenvalue is averaged", minimum=1)
    hessian_factor: float = option(
        1.3, "growth of the eigenvalue over one window at which to stop", above=1
    )


STOPPERS.add("skip", EarlyStop(f"{_RULES}:skip_stopper", (SkipLimit, Patience)))
STOPPERS.add(
    "hessian",
    EarlyStop(
        f"{_RULES}:hessian_stopper",
        (EigenvalueGrowth, Patience),
        measures=TOP_EIGENVALUE,
    ),
)


@dataclass(kw_only=True)
class EarlyStopping:
    """Early stopping."""

    early_stop: str = option(
        "none",
        "stop before the last epoch: when normal cells have too many skip connections, or when the "
        "Hessian's top eigenvalue grows",
        choices=("none",),
        names=STOPPERS,
    )


@dataclass(kw_only=True)
class EarlyStoppingOptions(EarlyStopping, SkipLimit, EigenvalueGrowth, Patience):
    """The rule and the options of all rules."""
