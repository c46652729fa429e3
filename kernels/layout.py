"""How a dense tensor lies in memory, and how to bring others to the same order without need."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """The order in which kernels walk ``x``: channels_last where it is that and not also NCHW."""
    if (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    ):
        return torch.channels_last
    return torch.contiguous_format


def in_format(x: Tensor, order: torch.memory_format) -> Tensor:
    """``x`` itself when it is dense in that order (wherever its storage begins), else a copy."""
    return x.contiguous(memory_format=order)


def one_layout(xs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, each dense in the order of the first."""
    order = memory_format(xs[0])
    return [in_format(x, order) for x in xs]


@dataclass(frozen=True)
class Extent:
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

    @property
    def per_channel(self) -> int:
        """Elements of one channel (M in the formulas)."""
        return self.outer * self.inner

    @property
    def channels_inner(self) -> bool:
        """Whether neighbours in memory belong to neighbouring channels."""
        return self.inner == 1


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over tensors of ``dtype`` are kept in: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of ``x`` the current one, which Triton launches on."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return contextlib.nullcontext()
