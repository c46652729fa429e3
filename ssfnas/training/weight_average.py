"""The moving average of a network's weights, updated without a word to the host."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def warmed_up_decay(decay: float, updates: int) -> float:
    """min(decay, 1 - (1 + updates)^(-2/3)): a short average at first, which grows with what it has.

    A fixed decay of 0.999 would be mostly the weights before the first of a few hundred steps. This
    one starts at 0, so that the first update takes the weights as they are; it reaches 0.9 after 31
    updates, 0.99 after 1,000, and 0.999 after 31,623.

    Args:
        decay: the largest, in [0, 1).
        updates: those before this one.

    Source: warm-up of timm's ``ModelEmaV3``, after K. Crowson, with its defaults.
    """
    return min(decay, 1 - (1 + updates) ** (-2 / 3))


class WeightAverage(nn.Module):
    """A copy of a network whose parameters and buffers follow those of the network.

    ``average = decay average + (1 - decay) weights`` with each :meth:`update`; the decay is a
    tensor on the device, and nothing is asked of it, so that a CUDA graph can hold an update.

    Args:
        net: what is averaged; copied.

    Attributes:
        module: the copy.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(net)

    def forward(self, *inputs: Any) -> Any:
        """What the averaged network makes of it."""
        return self.module(*inputs)

    @torch.no_grad()
    def update(self, net: nn.Module, decay: Tensor) -> None:
        """Follow ``net`` by one step; whole numbers, counts of batches, are those of ``net``.

        Args:
            net: the network.
            decay: a scalar in [0, 1]; 0 forgets what was averaged, to the bit.
        """
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        for floating in (True, False):
            chosen = [pair for pair in pairs if pair[0].is_floating_point() is floating]
            if not chosen:
                continue
            own, values = (list(tensors) for tensors in zip(*chosen, strict=True))
            if floating:
                torch._foreach_sub_(own, values)
                torch._foreach_mul_(own, decay)
                torch._foreach_add_(own, values)
            else:
                torch._foreach_copy_(own, values)


def _tensors(net: nn.Module) -> list[Tensor]:
    return [*(parameter.detach() for parameter in net.parameters()), *net.buffers()]
