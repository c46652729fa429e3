"""Partial channels in C++ (csrc/cpu/partial_channels.cpp), on CPUs alone.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_partial_channels`. They
raise a :class:`~ssfnas.errors.RequestError` for tensors that do not fit each other. Images are
brought to channels_last, and so are results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import image, images
from ssfnas.ops.native import address, addresses, coefficients


def split_forward(x: Tensor, share: int, stride: int) -> tuple[Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_partial_channels.split_forward`."""
    x = image(x)
    part, rest = _parts(x.shape[1], share)
    sides = x.shape[2:]
    head = _room(x, part, sides)
    passing = _room(x, rest, _halved(sides)) if stride == 2 else None
    if x.numel() != 0:
        native._C.split_forward(
            *_how(x), _sizes(x, share), x.data_ptr(), head.data_ptr(), address(passing)
        )
    return head, x if passing is None else passing


def split_backward(
    x: Tensor, d_head: Tensor | None, d_rests: list[Tensor], b: Tensor, share: int, stride: int
) -> Tensor:
    """See :func:`ssfnas.ops.torch_partial_channels.split_backward`."""
    x = image(x)
    part, rest = _parts(x.shape[1], share)
    sides = x.shape[2:]
    d_rests = _like(x, d_rests, rest, _halved(sides) if stride == 2 else sides)
    d_head = _given(x, d_head, part, sides)
    b = coefficients(b, x, (len(d_rests),))
    dx = torch.empty_like(x)
    if x.numel() != 0:
        native._C.split_backward(
            *_how(x),
            _sizes(x, share),
            stride,
            x.data_ptr(),
            address(d_head),
            addresses(d_rests),
            b.data_ptr(),
            dx.data_ptr(),
        )
    return dx


def merge_forward(
    passing: list[Tensor], mixed: Tensor | None, b: Tensor, channels: int, share: int
) -> tuple[Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_partial_channels.merge_forward`."""
    part, _ = _parts(channels, share)
    passing, widths = _passing(passing, channels, share)
    first, sides = passing[0], passing[0].shape[2:]
    mixed = _given(first, mixed, part, sides)
    b = coefficients(b, first, (len(passing),))
    node, head = _room(first, channels, sides), _room(first, part, sides)
    if first.numel() != 0:
        native._C.merge_forward(
            *_how(first),
            (_pixels(first), channels, share),
            addresses(passing),
            widths,
            address(mixed),
            b.data_ptr(),
            node.data_ptr(),
            head.data_ptr(),
        )
    return node, head


def merge_backward(
    passing: list[Tensor],
    outside: Tensor | None,
    d_head: Tensor | None,
    d_rests: list[Tensor],
    b: Tensor | None,
    channels: int,
    share: int,
    needs_factors: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See :func:`ssfnas.ops.torch_partial_channels.merge_backward`."""
    part, rest = _parts(channels, share)
    passing, widths = _passing(passing, channels, share)
    first, sides = passing[0], passing[0].shape[2:]
    outside = _given(first, outside, channels, sides)
    d_head = _given(first, d_head, part, sides)
    d_rests = _like(first, d_rests, rest, sides)
    b = first.new_zeros(0) if b is None else coefficients(b, first, (len(d_rests),))
    d_mixed, d_rest = _room(first, part, sides), _room(first, rest, sides)
    factors = None
    if needs_factors:
        factors = torch.zeros(len(passing), dtype=accumulator(first.dtype))
    if first.numel() != 0:
        native._C.merge_backward(
            *_how(first),
            (_pixels(first), channels, share),
            addresses(passing),
            widths,
            address(outside),
            address(d_head),
            addresses(d_rests),
            b.data_ptr(),
            d_mixed.data_ptr(),
            d_rest.data_ptr(),
            address(factors),
        )
    return d_mixed, d_rest, factors


def _parts(channels: int, share: int) -> tuple[int, int]:
    """Channels of a head, and of a rest."""
    if share < 2 or channels % share:
        raise RequestError(
            f"partial channels got {channels} channels and a share of {share}: it has to be at "
            "least 2, and to divide them"
        )
    return channels // share, channels - channels // share


def _passing(
    passing: Sequence[Tensor], channels: int, share: int
) -> tuple[list[Tensor], list[int]]:
    """Dense tensors of all channels or of rests alone, and how many each has."""
    first = image(passing[0])
    if first.device.type != "cpu":
        raise RequestError(
            f"partial channels got a tensor on {first.device}: native code has them on CPUs"
        )
    rest = _parts(channels, share)[1]
    widths = [x.shape[1] for x in passing]
    for width in widths:
        if width not in (channels, rest):
            raise RequestError(
                f"partial channels got a tensor of {width} channels: {channels} or {rest} fit"
            )
    sides = first.shape[2:]
    both = zip(passing, widths, strict=True)
    return [_like(first, [x], width, sides)[0] for x, width in both], widths


def _like(first: Tensor, xs: Sequence[Tensor], channels: int, sides: Sequence[int]) -> list[Tensor]:
    """Dense tensors of so many channels beside the first one."""
    shape = torch.Size((first.shape[0], channels, *sides))
    return images(xs, len(xs), shape, first)


def _given(first: Tensor, x: Tensor | None, channels: int, sides: Sequence[int]) -> Tensor | None:
    return None if x is None else _like(first, [x], channels, sides)[0]


def _room(like: Tensor, channels: int, sides: Sequence[int]) -> Tensor:
    return torch.empty(
        (like.shape[0], channels, *sides), dtype=like.dtype, memory_format=torch.channels_last
    )


def _halved(sides: Sequence[int]) -> list[int]:
    return [-(-side // 2) for side in sides]


def _pixels(x: Tensor) -> int:
    return math.prod((x.shape[0], *x.shape[2:]))


def _sizes(x: Tensor, share: int) -> tuple[int, int, int, int, int]:
    samples, channels, height, width = x.shape
    return samples, height, width, channels, share


def _how(x: Tensor) -> tuple[int, int]:
    """Threads and dtype."""
    return torch.get_num_threads(), native.DTYPES[x.dtype]
