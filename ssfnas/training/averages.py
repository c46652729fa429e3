"""Means of logged terms over an epoch, kept on the device so that no step waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import require_finite


class RunningMeans:
    """Means of named scalars since the last :meth:`pop`.

    Args:
        device: where the scalars are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add one value of each term; tensors are scalars on the device."""
        for name, value in terms.items():
            value = value.detach().double()
            if name in self._sums:
                self._sums[name] += value
                self._counts[name] += 1
            else:
                self._sums[name] = value.clone()
                self._counts[name] = 1

    def require_finite(self) -> None:
        """Refuse means that some value has spoiled.

        Raises:
            NumericalError: names the terms.
        """
        require_finite(self._sums)

    def values(self) -> dict[str, float]:
        """The means so far on this process."""
        return {name: float(self._sums[name]) / self._counts[name] for name in self._sums}

    def pop(self, world: World) -> dict[str, float]:
        """The means so far over all processes, then start anew."""
        names = list(self._sums)
        means = torch.zeros(len(names), dtype=torch.float64)
        if names:
            means = world.mean(torch.stack([self._sums[n] / self._counts[n] for n in names]))
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, dict[str, Tensor] | dict[str, int]]:
        """Sums and counts, for a checkpoint in the middle of an epoch."""
        return {
            "sums": {name: value.clone() for name, value in self._sums.items()},
            "counts": dict(self._counts),
        }

    def load_state_dict(self, state: Mapping[str, Mapping]) -> None:
        """Go on from :meth:`state_dict`."""
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])
