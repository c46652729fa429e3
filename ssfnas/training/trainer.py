"""What a search, a random search and a retraining have in common: steps, epochs, and a state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ssfnas.data import ImageData
from ssfnas.runtime.distributed import World
from ssfnas.training.averages import RunningMeans


class Resumable:
    """Something that goes on exactly where its state was taken.

    Attributes:
        kept: the attributes that the future depends on: plain values, or what has a state itself.
    """

    kept: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        parts = {name: getattr(self, name) for name in self.kept}
        return {
            name: part.state_dict() if hasattr(part, "state_dict") else copy.copy(part)
            for name, part in parts.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        for name in self.kept:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, copy.copy(state[name]))


class Trainer(Resumable, ABC):
    """A training of any kind, as the loop runs it.

    Args:
        config: what to do; checked already.
        data: the images, on ``world.device`` unless they are decoded lazily.
        world: the processes that train together.
        dtype: of weights and images; float64 is for proofs.

    Attributes:
        step: steps done.
        total_steps: steps in all.
        means: of the steps' terms since the last epoch ended.
    """

    total_steps: int
    net: torch.nn.Module

    def __init__(self, config: Any, data: ImageData, world: World, dtype: torch.dtype) -> None:
        self.config, self.data, self.world, self.dtype = config, data, world, dtype
        self.step = 0
        self.means = RunningMeans(world.device)

    @property
    def finished(self) -> bool:
        """Whether no step is left, because all are done or because a rule stopped it."""
        return self.step >= self.total_steps

    @property
    @abstractmethod
    def epoch_ended(self) -> bool:
        """Whether the step just done was the last of an epoch."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Epochs that are complete."""

    @abstractmethod
    def run_step(self) -> None:
        """Do one step and count it."""

    @abstractmethod
    def end_epoch(self) -> dict[str, Any]:
        """Measure what is measured once an epoch; what to log of it."""

    @abstractmethod
    def progress_values(self) -> Mapping[str, float]:
        """A few current numbers for the progress bar."""

    @abstractmethod
    def close(self) -> None:
        """Release the processes that decode images."""
