"""Rules that stop a search before it collapses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ssfnas.config import SearchConfig


@dataclass(frozen=True)
class StopDecision:
    """That a search stops.

    Attributes:
        reason: for people.
        use_epoch: the epoch after which the alphas are still good; 0 is before the first.
    """

    reason: str
    use_epoch: int


class Stopper(Protocol):
    """A rule that is asked after each epoch. As it stands here it remembers nothing."""

    def update(self, epoch: int, value: float) -> StopDecision | None:
        """Take the value measured after ``epoch`` (from 1) and say whether to stop."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        return


@dataclass
class SkipStopper(Stopper):
    """Stops when the normal cell would have too many skip connections (DARTS+, arXiv 1909.06035).

    The alphas of the epoch that reached the number are used, as in the source.

    Args:
        max_skips: skip connections at which to stop.
        after: epochs before which nothing stops.
    """

    max_skips: int
    after: int

    def update(self, epoch: int, value: float) -> StopDecision | None:
        """``value`` is the number of skip connections in the derived normal cell."""
        if epoch <= self.after or value < self.max_skips:
            return None
        return StopDecision(
            f"the normal cell has {value:g} skip connections after epoch {epoch} "
            f"(--max-skips {self.max_skips})",
            epoch,
        )


@dataclass
class HessianStopper(Stopper):
    """Stops when the Hessian's top eigenvalue grows (RobustDARTS, arXiv 1909.09656).

    With m(e) the mean over the last ``window`` epochs up to e: stop after epoch e when
    m(e) > factor * m(e - window), and go back to epoch e - window.

    Args:
        window: epochs of a mean.
        factor: growth at which to stop.
        after: epochs before which nothing stops.
    """

    window: int
    factor: float
    after: int
    values: list[float] = field(default_factory=list, init=False)

    def update(self, epoch: int, value: float) -> StopDecision | None:
        """``value`` is the eigenvalue after ``epoch``."""
        self.values.append(float(value))
        if epoch <= self.after or len(self.values) < 2 * self.window:
            return None
        now = math.fsum(self.values[-self.window :]) / self.window
        before = math.fsum(self.values[-2 * self.window : -self.window]) / self.window
        if not now > self.factor * before:
            return None
        return StopDecision(
            f"the Hessian's top eigenvalue grew from {before:.4g} to {now:.4g} (means of "
            f"{self.window} epochs); back to epoch {epoch - self.window}",
            epoch - self.window,
        )

    def state_dict(self) -> dict[str, Any]:
        """The values so far."""
        return {"values": list(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.values = list(state["values"])


def skip_stopper(config: SearchConfig) -> Stopper:
    """The one that a search asks for; epochs in which alpha stays count as none."""
    return SkipStopper(config.max_skips, config.early_stop_after + config.alpha_warmup_epochs)


def hessian_stopper(config: SearchConfig) -> Stopper:
    """The one that a search asks for; epochs in which alpha stays count as none."""
    after = config.early_stop_after + config.alpha_warmup_epochs
    return HessianStopper(config.hessian_window, config.hessian_factor, after)
