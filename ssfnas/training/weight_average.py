"""The moving average of a network's weights, updated without a word to the host."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """A copy of a network whose parameters and buffers follow those of the network.

    ``average = decay average + (1 - decay) weights`` with each :meth:`update`. PyTorch's
    ``AveragedModel`` does the same, but asks a tensor whether it has started, which no CUDA graph
    can hold.

    Args:
        net: what is averaged; copied.
        decay: in [0, 1).

    Attributes:
        module: the copy.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(net)
        self.decay = decay

    def forward(self, *inputs: Any) -> Any:
        """What the averaged network makes of it."""
        return self.module(*inputs)

    @torch.no_grad()
    def restart(self, net: nn.Module) -> None:
        """Forget what was averaged: take the weights of ``net`` as they are."""
        for own, value in zip(_tensors(self.module), _tensors(net), strict=True):
            own.copy_(value)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Follow ``net`` by one step; whole numbers are cut off."""
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(
            [own for own, _ in floating], [value for _, value in floating], 1 - self.decay
        )
        # Counts of batches, of which there are hundreds: together.
        whole = [pair for pair in pairs if not pair[0].is_floating_point()]
        for shape, dtype in {(own.shape, own.dtype): None for own, _ in whole}:
            alike = [pair for pair in whole if (pair[0].shape, pair[0].dtype) == (shape, dtype)]
            own = [pair[0] for pair in alike]
            mean = torch.stack(own) * self.decay
            mean += torch.stack([value for _, value in alike]) * (1 - self.decay)
            torch._foreach_copy_(own, list(mean.to(dtype).unbind()))


def _tensors(net: nn.Module) -> list[Tensor]:
    return [*(parameter.detach() for parameter in net.parameters()), *net.buffers()]
