"""Factorized reduces in C++ (csrc/cpu/reduces.cpp), on CPUs alone.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_reduces`. They raise a
:class:`~ssfnas.errors.RequestError` for tensors that do not fit each other. Images are brought to
channels_last, and so are results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import image, images, moved
from ssfnas.ops.native import address, addresses, coefficients


def reduces_forward(
    xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_reduces.reduces_forward`."""
    given = _Reduces(xs, even, odd)
    x, nhwc = given.xs[0], torch.channels_last
    zs = [torch.empty(given.shape, dtype=x.dtype, memory_format=nhwc) for _ in even]
    mean = torch.full(given.rows, math.nan, dtype=accumulator(x.dtype))
    var = mean.clone()
    if x.numel() != 0:
        native._C.reduces_forward(*given.native(), addresses(zs), *addresses([mean, var]))
    return zs, mean, var


def reduces_backward(
    xs: Sequence[Tensor],
    zs: Sequence[Tensor],
    grads: Sequence[Tensor],
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    even: Sequence[Tensor],
    odd: Sequence[Tensor],
    *,
    needs_x: bool = True,
    needs_weights: bool = True,
    into: list[Tensor] | None = None,
    factors: Tensor | None = None,
) -> tuple[list[Tensor] | None, list[Tensor] | None, list[Tensor] | None]:
    """See :func:`ssfnas.ops.torch_reduces.reduces_backward`."""
    given = _Reduces(xs, even, odd)
    x, groups = given.xs[0], len(even)
    grads = images(grads, groups, given.shape, x)
    p = coefficients(p, x, given.rows)
    q, r = (None if rows is None else coefficients(rows, x, given.rows) for rows in (q, r))
    zs = [] if q is None else images(zs, groups, given.shape, x)
    if factors is not None:
        factors = coefficients(factors, x, (groups, x.shape[0]))
    dxs: list[Tensor] = []
    if needs_x and into is None:
        dxs = [torch.empty_like(x) for x in given.xs]
    elif needs_x and into is not None:
        dxs = images(into, len(given.xs), x.shape, x)
    of_even, of_odd = (
        [torch.zeros_like(f) for f in filters] if needs_weights else []
        for filters in (given.even, given.odd)
    )
    if x.numel() != 0 and (needs_x or needs_weights):
        native._C.reduces_backward(
            *given.native(),
            addresses(zs),
            addresses(grads),
            p.data_ptr(),
            address(q),
            address(r),
            address(factors),
            addresses(dxs),
            into is not None,
            addresses(of_even),
            addresses(of_odd),
        )
    if into is not None:
        for dx, total in zip(dxs, into, strict=False):  # none where they are not wanted
            moved(dx, total)
    found = (into or dxs) if needs_x else None
    return (found, of_even, of_odd) if needs_weights else (found, None, None)


class _Reduces:
    """What both passes take: dense, and in the dtypes that the loops read.

    Attributes:
        xs, even, odd: so.
        rows: (G, O), the shape of coefficients and statistics.
        shape: of every z.
    """

    def __init__(self, xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]) -> None:
        first = image(xs[0])
        if first.device.type != "cpu":
            raise RequestError(
                f"reduces got a tensor on {first.device}: native code has it on CPUs"
            )
        if not even or len(odd) != len(even):
            raise RequestError(
                f"reduces got {len(even)} filters of even pixels and {len(odd)} of odd ones: one "
                "of each an edge is needed"
            )
        samples, channels, height, width = first.shape
        self.xs = images(xs, len(xs), first.shape, first)
        self.even, self.odd = (
            [coefficients(f, first, (len(own[0]), len(xs) * channels, 1, 1)) for f in own]
            for own in (even, odd)
        )
        outputs = len(even[0]), len(odd[0])
        self.rows = len(even), sum(outputs)
        self.shape = torch.Size((samples, sum(outputs), -(-height // 2), -(-width // 2)))
        self._sizes = samples, height, width, channels, *outputs

    def native(
        self,
    ) -> tuple[int, int, tuple[int, int, int, int, int, int], list[int], list[int], list[int]]:
        """Threads, dtype, sizes and addresses, as the native code wants them."""
        filters = addresses(self.even), addresses(self.odd)
        threads, dtype = torch.get_num_threads(), native.DTYPES[self.xs[0].dtype]
        return threads, dtype, self._sizes, addresses(self.xs), *filters
