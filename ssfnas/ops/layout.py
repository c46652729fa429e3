"""What the sums ask of the tensors that they are given, and how coefficients fit them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops.autocast import autocasts


def checked(op: str, xs: Sequence[Tensor], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    """The K tensors in one dtype, and their weights in the dtype of sums over them.

    Under autocast tensors of several dtypes are brought to the widest, as a sum of them would be.

    Raises:
        RequestError: no tensors, shapes, dtypes or devices that differ, or not one weight each.
    """
    xs = list(xs)
    if not xs:
        raise RequestError(f"{op}: there is nothing to sum: give at least one tensor")
    first = xs[0]
    if weights.dim() != 1 or weights.shape[0] != len(xs):
        raise RequestError(
            f"{op}: weights have the shape {list(weights.shape)}: {len(xs)} tensors need "
            f"[{len(xs)}]"
        )
    shape, device, dtype = first.shape, first.device, first.dtype
    for k, x in enumerate(xs):
        if x.shape == shape and x.device == device and x.dtype == dtype and k > 0:
            continue
        if x.shape != shape:
            raise RequestError(
                f"{op}: tensor {k} has the shape {list(x.shape)} and tensor 0 "
                f"{list(first.shape)}: all have to have one"
            )
        if x.device != device:
            raise RequestError(
                f"{op}: tensor {k} is on {x.device} and tensor 0 on {first.device}: all have to be "
                "on one device"
            )
        if not x.is_floating_point():
            raise RequestError(f"{op}: tensor {k} is {x.dtype}: it has to be floating point")
    if weights.device != first.device:
        raise RequestError(
            f"{op}: weights are on {weights.device} and tensors on {first.device}: both have to be "
            "on one device"
        )
    if not weights.is_floating_point():
        raise RequestError(f"{op}: weights are {weights.dtype}: they have to be floating point")
    if any(x.dtype != dtype for x in xs):
        if not autocasts(first):
            named = ", ".join(str(x.dtype) for x in xs)
            raise RequestError(f"{op}: tensors are {named}: all have to have one dtype")
        widest = first.dtype
        for x in xs[1:]:
            widest = torch.promote_types(widest, x.dtype)
        xs = [x.to(widest) for x in xs]
    return xs, weights.to(accumulator(xs[0].dtype))


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Values [C] in the shape that broadcasts over ``like`` [N, C, ...]."""
    return values.view(-1, *[1] * (like.dim() - 2))
