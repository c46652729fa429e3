"""Sizes of networks: parameters and multiply-adds."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(net: nn.Module, auxiliary: bool = True) -> int:
    """Parameters of a network; architecture parameters (``alphas_*``) are not counted.

    Args:
        net: the network.
        auxiliary: whether those of the auxiliary head count.
    """
    return sum(
        parameter.numel()
        for name, parameter in net.named_parameters()
        if not name.startswith("alphas_") and (auxiliary or not name.startswith("auxiliary_head."))
    )


def count_multiply_adds(net: nn.Module, image_size: tuple[int, int], in_channels: int) -> int:
    """Multiply-adds of one image's forward pass in evaluation mode, without auxiliary head.

    Counted by torch on the meta device: nothing is computed, and ``net`` is left as it is.

    Args:
        net: takes [1, in_channels, height, width].
        image_size: (height, width) in pixels.
        in_channels: of an image.
    """
    try:
        meta = copy.deepcopy(net).to("meta").eval()
        image = torch.empty(1, in_channels, *image_size, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            meta(image)
    except NotImplementedError:  # an operation without a meta form: compute it
        plain = copy.deepcopy(net).cpu().eval()
        parameter = next(plain.parameters())
        image = torch.zeros(1, in_channels, *image_size, dtype=parameter.dtype)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            plain(image)
    return counter.get_total_flops() // 2
