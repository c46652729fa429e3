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
    # dz_g = sum_k f_k (a_k x_k + b_k), where x are grad and z; rows of all edges at once.
    a, b = p[:, None], torch.zeros_like(p)[:, None]
    f = None if factors is None else factors[:, None]
    xs_of_dz = [[grad] for grad in grads]
    if q is not None and r is not None:
        a, b = (torch.cat([rows, more[:, None]], dim=1) for rows, more in ((a, q), (b, r)))
        f = None if f is None else torch.cat([f, torch.ones_like(f)], dim=1)
        xs_of_dz = [[grad, z] for grad, z in zip(grads, zs, strict=True)]
    dzs = [
        kernels.norm_sum_forward(
            of_dz, a[g], b[g] if f is not None else b[g, -1], None if f is None else f[g]
        )
        for g, of_dz in enumerate(xs_of_dz)
    ]
    return product_gradients(
        xs, dzs, even, odd, needs_x=needs_x, needs_weights=needs_weights, into=into
    )
