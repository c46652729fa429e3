"""Strategies: which weights an edge gives its operations, and what is added to the alphas' loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ssfnas.config import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS, SearchConfig
from ssfnas.registry import Registry
from ssfnas.strategies.regularisers import zero_one_loss

Regulariser = Callable[[], dict[str, Tensor]]


def no_regulariser(alphas: Sequence[Tensor], config: SearchConfig) -> Regulariser | None:
    """Nothing is added."""
    return None


def zero_one_regulariser(alphas: Sequence[Tensor], config: SearchConfig) -> Regulariser:
    """w01 times the zero-one loss; logged without the factor as ``zero_one``."""

    def terms() -> dict[str, Tensor]:
        value = zero_one_loss(alphas, config.zero_one)
        return {"loss": config.w01 * value, "zero_one": value}

    return terms


@dataclass(frozen=True)
class Strategy:
    """A way to search.

    Attributes:
        relaxation: name of what makes weights of alphas.
        operations: candidates where the request names none.
        make_regulariser: (alphas, config) -> () -> scalar terms, ``"loss"`` among them; or None.
    """

    relaxation: str
    operations: tuple[str, ...]
    make_regulariser: Callable[[Sequence[Tensor], SearchConfig], Regulariser | None]


STRATEGIES: Registry[Strategy] = Registry("strategy")
STRATEGIES.add("darts", Strategy("softmax", DARTS_OPERATIONS, no_regulariser))
STRATEGIES.add("fairdarts", Strategy("sigmoid", FAIRDARTS_OPERATIONS, zero_one_regulariser))
STRATEGIES.add("random", Strategy("sigmoid", FAIRDARTS_OPERATIONS, no_regulariser))
