"""Factorized reduces on GPUs: PyTorch's matrix products, and Triton for statistics and gradients.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_reduces`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas import kernels
from ssfnas.ops.torch_reduces import product_gradients, products


def reduces_forward(
    xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_reduces.reduces_forward`."""
    zs = products(xs, even, odd)
    return zs, *kernels.norm_statistics(zs, [True] * len(zs))


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
    dzs = []
    for g, grad in enumerate(grads):
        summands, a, b = [grad], [p[g]], [torch.zeros_like(p[g])]
        if q is not None and r is not None:
            summands, a, b = [grad, zs[g]], [p[g], q[g]], [b[0], r[g]]
        own = None
        if factors is not None:
            own = torch.stack([factors[g], *[torch.ones_like(factors[g])] * (len(a) - 1)])
        offsets = b[-1] if own is None else torch.stack(b)
        dzs.append(kernels.norm_sum_forward(summands, torch.stack(a), offsets, own))
    return product_gradients(
        xs, dzs, even, odd, needs_x=needs_x, needs_weights=needs_weights, into=into
    )
