"""How tensors lie in memory, and how they are brought to one layout; also for other backends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over tensors of ``dtype`` are kept in: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(x: Tensor) -> torch.memory_format:
    """The order of a dense copy of ``x``: channels_last where it is that, or a slice of that."""
    if x.dim() != 4 or x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    strides = x.stride()
    # A slice of a channels_last tensor is in its order, with gaps.
    slice_of_it = x.shape[1] > 1 and strides[1] == 1 and strides[3] > 1 and strides[2] > 1
    return torch.channels_last if slice_of_it else torch.contiguous_format


def in_one_layout(xs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, dense and in the order of the first; itself where a tensor is that already."""
    order = memory_format(xs[0])
    return [x.contiguous(memory_format=order) for x in xs]


class Extent(NamedTuple):
    """A dense tensor [N, C, ...] as memory [outer, channels, inner].

    ``inner`` is 1 when channels are the fastest dimension (channels_last, or [N, C]).
    """

    outer: int
    channels: int
    inner: int

    @staticmethod
    def of(x: Tensor) -> Extent:
        """The extent of ``x``, which is dense in :func:`memory_format`'s order."""
        samples, channels = x.shape[:2]
        places = math.prod(x.shape[2:])
        if places == 1 or memory_format(x) is torch.channels_last:
            return Extent(samples * places, channels, 1)
        return Extent(samples, channels, places)

    def of_one(self, images: int) -> Extent:
        """The extent of each of so many images that the tensor has."""
        return Extent(self.outer // images, self.channels, self.inner)

    @property
    def channels_inner(self) -> bool:
        """Whether neighbors in memory belong to neighboring channels."""
        return self.inner == 1


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of ``x`` the current one, which Triton launches on."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return contextlib.nullcontext()
