"""The best weights so far, kept beside those that are trained on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ssfnas.runtime.resumable import Resumable


class ChosenWeights(Resumable):
    """Keeps a copy of the weights that had the largest value when they were offered.

    Attributes:
        value: theirs; None before the first.
        weights: of each module by its name, on the CPU.
    """

    kept: ClassVar[tuple[str, ...]] = ("value", "weights")

    def __init__(self) -> None:
        self.value: float | None = None
        self.weights: dict[str, dict[str, Tensor]] = {}

    def offer(self, value: float, **modules: nn.Module) -> None:
        """Keep the weights of ``modules`` where their value is larger than all before."""
        if self.value is not None and value <= self.value:
            return
        self.value = value
        self.weights = {
            name: {key: part.detach().cpu().clone() for key, part in module.state_dict().items()}
            for name, module in modules.items()
        }

    def restore(self, **modules: nn.Module) -> None:
        """Give ``modules`` the weights that are kept, in place."""
        for name, module in modules.items():
            module.load_state_dict(self.weights[name])
