"""One optimiser's update: scaling, averaging over processes, clipping, finiteness."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssfnas.errors import NumericalError
from ssfnas.runtime.distributed import World, average_gradients
from ssfnas.runtime.precision import make_scaler


class Updater:
    """Applies a loss to its parameters.

    Args:
        parameters: what is updated.
        optimizer: holds the same parameters.
        world: the processes whose gradients are averaged.
        precision: fp16 scales the loss.
        clip: largest norm of the gradient; 0: any.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizer: Optimizer,
        world: World,
        precision: str,
        clip: float = 0.0,
    ) -> None:
        self.parameters = list(parameters)
        self.optimizer = optimizer
        self.world = world
        self.clip = clip
        self.scaler = make_scaler(precision, world.device)

    def update(self, loss: Tensor, term: str) -> None:
        """One update from ``loss``, a scalar.

        Raises:
            NumericalError: the loss is not finite; names ``term``. Nothing was updated.
        """
        if not bool(torch.isfinite(loss.detach())):
            raise NumericalError(f"the {term} loss is {float(loss.detach())}")
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
        # A parameter without a gradient has none on any process: all run the same graph.
        average_gradients([parameter.grad for parameter in self.parameters], self.world)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and scaler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
