"""How large a network is: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ssfnas.spaces.reference import ReferenceSupernet
from ssfnas.spaces.reference_derived import ReferenceDerivedNetwork


def count_parameters(net: nn.Module, auxiliary: bool = False) -> int:
    """Parameters of ``net``; a supernet's alphas are not counted.

    Args:
        net: a supernet, a derived network, or any other module.
        auxiliary: count the auxiliary head, too.
    """
    parameters = set(net.parameters())
    if isinstance(net, ReferenceSupernet):
        parameters -= set(net.alphas())
    if (
        isinstance(net, ReferenceDerivedNetwork)
        and net.auxiliary_head is not None
        and not auxiliary
    ):
        parameters -= set(net.auxiliary_head.parameters())
    return sum(parameter.numel() for parameter in parameters)


def count_multiply_adds(
    net: nn.Module, image_size: int | tuple[int, int] = 32, in_channels: int = 3
) -> int:
    """Multiply-adds of convolutions and matrix products for one image, in evaluation.

    Nothing is computed (tensors have shapes only), and ``net`` is as it was afterward. An
    auxiliary head takes no part in evaluation, so it is not counted.

    Args:
        net: on any device, ``meta`` included.
        image_size: pixels a side, or (height, width).
        in_channels: of the image.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), None)
    image = torch.empty(1, in_channels, *size, device="meta", dtype=dtype)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _evaluation(net), counter:
        torch.func.functional_call(net, shapes, (image,))
    return int(counter.get_total_flops()) // 2


@contextmanager
def _evaluation(net: nn.Module) -> Iterator[None]:
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
