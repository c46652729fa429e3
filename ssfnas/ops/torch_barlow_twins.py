"""The Barlow Twins loss and its gradient by formula, in plain PyTorch.

With Z1, Z2 [N, D] standardized over the batch, d_i = (Z1' Z2)_ii / N and either C = Z1' Z2 / N
(primal) or K1 = Z1 Z1', K2 = Z2 Z2' [N, N] (dual):

    loss = sum (d - 1)^2 + lambd (||C||^2 - sum d^2),   ||C||^2 = tr(K1 K2) / N^2
    dL/dZ1 = (2 lambd / N) Z2 C' + Z2 e = (2 lambd / N^2) K2 Z1 + Z2 e
    e_i = (2 (d_i - 1) - 2 lambd d_i) / N
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def barlow_twins_forward(
    z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool
) -> tuple[Tensor, Saved]:
    """The loss over the rows given, in float32 (float64), and what the backward pass needs.

    Args:
        z1, z2: embeddings [N, D] of one dtype.
        lambd: weight of the off-diagonal terms.
        eps: added to the biased variances.
        dual: by N x N matrices, else by a D x D one.

    Returns:
        The loss, and (z1, z2, mean [2, D], rstd [2, D], e [D], matrix); the matrix is C [D, D] or
        K1 and K2 [2, N, N].
    """
    n, dimensions = z1.shape
    dtype = accumulator(z1.dtype)
    mean = torch.empty(2, dimensions, dtype=dtype, device=z1.device)
    rstd = torch.empty_like(mean)
    a = _standardize(z1, mean[0], rstd[0], eps)
    b = _standardize(z2, mean[1], rstd[1], eps)
    d = (a * b).mean(0)
    if dual:
        matrix = torch.empty(2, n, n, dtype=dtype, device=z1.device)
        torch.mm(a, a.T, out=matrix[0])
        torch.mm(b, b.T, out=matrix[1])
        squares = (matrix[0] * matrix[1]).sum() / n**2
    else:
        matrix = (a.T @ b).div_(n)
        squares = matrix.square().sum()
    loss = (d - 1).square().sum() + lambd * (squares - d.square().sum())
    e = (2 / n) * (d - 1 - lambd * d)
    return loss, (z1, z2, mean, rstd, e, matrix)


def barlow_twins_backward(saved: Saved, lambd: float, grad_loss: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [N, D] of both embeddings, in their dtype; ``grad_loss`` is a scalar tensor."""
    z1, z2, mean, rstd, e, matrix = saved
    n = len(z1)
    # Standardizing again costs 2 N D operations; keeping the result would cost as much memory.
    a, b = (z1 - mean[0]).mul_(rstd[0]), (z2 - mean[1]).mul_(rstd[1])
    if matrix.dim() == 3:
        factor = 2 * lambd / n**2
        da = (b * e).addmm_(matrix[1], a, alpha=factor)
        db = (a * e).addmm_(matrix[0], b, alpha=factor)
    else:
        factor = 2 * lambd / n
        da = (b * e).addmm_(b, matrix.T, alpha=factor)
        db = (a * e).addmm_(a, matrix, alpha=factor)
    scaled = rstd * grad_loss
    return (
        _through_standardizing(da, a, scaled[0]).to(z1.dtype),
        _through_standardizing(db, b, scaled[1]).to(z2.dtype),
    )


def _standardize(z: Tensor, mean: Tensor, rstd: Tensor, eps: float) -> Tensor:
    """Columns of z [N, D] standardized; writes their mean and 1 / sqrt(variance + eps) [D]."""
    result, columns, scales = torch.native_batch_norm(
        z.to(mean.dtype), None, None, None, None, True, 0.0, eps
    )
    mean.copy_(columns)
    rstd.copy_(scales)
    return result


def _through_standardizing(gradient: Tensor, z: Tensor, rstd: Tensor) -> Tensor:
    """rstd (G - mean(G) - Z mean(G Z)); the mean of G is 0 but for rounding, as Z's columns are."""
    along = (gradient * z).mean(0)
    return gradient.addcmul_(z, along, value=-1).mul_(rstd)
