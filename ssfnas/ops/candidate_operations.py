"""Candidates of a source: separable convolutions of all edges that leave it, and both pools.

With r = relu(s), a depthwise filter f_g and a 1x1 filter W_g a separable unit:

    z_g = W_g (f_g * r),   largest = 3x3 maxima of s,   average = 3x3 means of s

Padding keeps ceil(H / stride) rows; an average is over the pixels that are inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.selection import choose, primitive, requested, wants_reference
from ssfnas.ops.torch_candidates import depthwise_convolution

Candidates = tuple[list[Tensor], Tensor, Tensor]

_OP = "candidate_operations"


def candidate_operations_reference(
    s: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
) -> Candidates:
    """The definition of :func:`candidate_operations`, differentiable any number of times."""
    _check(s, depthwise, pointwise, dilations, stride)
    with without_autocast(s):
        zs = []
        for filters, mixing, dilation in zip(depthwise, pointwise, dilations, strict=True):
            inner = depthwise_convolution(s.relu(), filters, stride, dilation)
            zs.append(F.conv2d(inner, mixing.to(s.dtype)))
        largest = F.max_pool2d(s, 3, stride, padding=1)
        average = F.avg_pool2d(s, 3, stride, padding=1, count_include_pad=False)
    return zs, largest, average


def candidate_operations(
    s: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
) -> Candidates:
    """Separable convolutions of one source, and its 3x3 maxima and averages.

    Nothing is computed for results that no gradient comes from, and no filters' gradients where no
    filter needs one. Under ``torch.compile`` it runs uncompiled.

    Args:
        s: the source [N, C, H, W]; float16, bfloat16, float32 or float64, in any layout.
        depthwise: G filters [C, 1, k, k], k odd, any floating dtype.
        pointwise: G filters [C, C, 1, 1].
        dilations: G, of the depthwise convolutions.
        stride: of all convolutions and pools.

    Returns:
        G tensors z_g, the maxima and the averages, each [N, C, ceil(H / stride),
        ceil(W / stride)] in the dtype of ``s``. Differentiable once; the reference is
        differentiable any number of times.

    Raises:
        RequestError: shapes, dtypes or devices that do not fit each other.
        BackendError: a backend was asked for by name and cannot take these tensors.
    """
    if wants_reference():
        return candidate_operations_reference(
            s, depthwise, pointwise, dilations=dilations, stride=stride
        )
    _check(s, depthwise, pointwise, dilations, stride)
    return _apply(s, list(depthwise), list(pointwise), list(dilations), stride)


@torch.compiler.disable
def _apply(
    s: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    dilations: list[int],
    stride: int,
) -> Candidates:
    name = choose(_OP, [s], requested())
    results = _CandidateOperations.apply(name, dilations, stride, s, *depthwise, *pointwise)
    return list(results[:-2]), results[-2], results[-1]


class _CandidateOperations(torch.autograd.Function):
    """(backend, dilations, stride, source, *depthwise, *pointwise) -> (*zs, largest, average)."""

    @staticmethod
    def forward(
        ctx: Any, name: str, dilations: list[int], stride: int, s: Tensor, *filters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.name, ctx.dilations, ctx.stride = name, dilations, stride
        ctx.save_for_backward(s, *filters)
        ctx.set_materialize_grads(False)
        groups = len(dilations)
        with without_autocast(s):
            zs: list[Tensor] = []
            if groups:
                wide = [f.to(accumulator(s.dtype)) for f in filters]
                zs, _, _ = primitive(name, "separable_forward")(
                    [s], wide[:groups], wide[groups:], stride=stride, dilations=dilations
                )
            largest, average, _, _ = primitive(name, "pools_forward")(s, stride)
        return *zs, largest, average

    @staticmethod
    @differentiable_once(_OP)
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        s, *filters = ctx.saved_tensors
        groups = len(ctx.dilations)
        _, _, _, needs_s, *needs_filters = ctx.needs_input_grad
        *of_units, of_largest, of_average = grads
        used = [
            g
            for g, grad in enumerate(of_units)
            if grad is not None and (needs_s or needs_filters[g] or needs_filters[groups + g])
        ]
        total: Tensor | None = None
        of_filters: list[Tensor | None] = [None] * len(filters)
        with without_autocast(s):
            if needs_s and (of_largest is not None or of_average is not None):
                total = primitive(ctx.name, "pools_backward")(s, of_largest, of_average, ctx.stride)
            if used:
                wide = accumulator(s.dtype)
                (total,), _, *found = primitive(ctx.name, "separable_backward")(
                    [s],
                    [],
                    [of_units[g] for g in used],
                    torch.ones(len(used), s.shape[1], dtype=wide, device=s.device),
                    None,
                    None,
                    [filters[g].to(wide) for g in used],
                    [filters[groups + g].to(wide) for g in used],
                    stride=ctx.stride,
                    dilations=[ctx.dilations[g] for g in used],
                    needs_weights=any(needs_filters),
                    into=total,
                )
                for first, of_kind in zip((0, groups), found, strict=True):
                    for place, g in enumerate(used):
                        if needs_filters[first + g]:
                            of_filters[first + g] = of_kind[place].to(filters[first + g].dtype)
        return None, None, None, total if needs_s else None, *of_filters


def _check(
    s: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    dilations: Sequence[int],
    stride: int,
) -> None:
    """Raise a RequestError for arguments that do not fit each other."""
    if s.dim() != 4 or not s.is_floating_point():
        raise RequestError(
            f"{_OP}: the source is {list(s.shape)} {s.dtype}: it has to be [N, C, H, W], floating "
            "point"
        )
    if not len(depthwise) == len(pointwise) == len(dilations):
        raise RequestError(
            f"{_OP}: {len(depthwise)} depthwise filters, {len(pointwise)} 1x1 filters and "
            f"{len(dilations)} dilations: there has to be one of each a unit"
        )
    if stride < 1 or any(dilation < 1 for dilation in dilations):
        raise RequestError(f"{_OP}: stride and dilations have to be at least 1")
    channels = s.shape[1]
    for g, (filters, mixing) in enumerate(zip(depthwise, pointwise, strict=True)):
        size = filters.shape[-1] if filters.dim() == 4 else 0
        if filters.shape != (channels, 1, size, size) or size % 2 == 0:
            raise RequestError(
                f"{_OP}: depthwise filter {g} is {list(filters.shape)}: [{channels}, 1, k, k] with "
                "an odd k fits"
            )
        if mixing.shape != (channels, channels, 1, 1):
            raise RequestError(
                f"{_OP}: 1x1 filter {g} is {list(mixing.shape)}: [{channels}, {channels}, 1, 1] "
                "fits"
            )
        for weight in (filters, mixing):
            if weight.device != s.device or not weight.is_floating_point():
                raise RequestError(
                    f"{_OP}: a filter of unit {g} is {weight.dtype} on {weight.device}: floating "
                    f"point on {s.device} fits"
                )
