"""The Barlow Twins loss without the matrix that its definition builds, where that pays."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssfnas.ops.collectives import gather_rows

METHODS = ("auto", "primal", "dual")


def barlow_twins_loss_reference(
    z1: Tensor,
    z2: Tensor,
    *,
    lambd: float = 0.0051,
    scale: float = 1.0,
    eps: float = 1e-5,
    method: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The definition: differentiable any number of times; see :func:`barlow_twins_loss`.

    ``method`` is accepted and changes nothing.
    """
    check(z1, z2, method, group)
    if group is not None:
        z1, z2 = gather_rows(z1, group), gather_rows(z2, group)
    n, d = z1.shape

    def standardized(z: Tensor) -> Tensor:
        z = z if z.dtype == torch.float64 else z.float()
        return (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()

    with torch.autocast(z1.device.type, enabled=False):
        c = standardized(z1).T @ standardized(z2) / n
        on_diagonal = (c.diagonal() - 1).square().sum()
        off_diagonal = c.square().sum() - c.diagonal().square().sum()
        return scale * (on_diagonal + lambd * off_diagonal)


def check(z1: Tensor, z2: Tensor, method: str, group: dist.ProcessGroup | None) -> None:
    """Raise ``ValueError`` for embeddings that have no Barlow Twins loss."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: it is one of {', '.join(METHODS)}")
    if z1.ndim != 2 or z1.shape != z2.shape or z1.dtype != z2.dtype or z1.device != z2.device:
        raise ValueError(
            "embeddings are two tensors [N, D] of one shape, dtype and device, not "
            f"{list(z1.shape)} {z1.dtype} on {z1.device} and {list(z2.shape)} {z2.dtype} on "
            f"{z2.device}"
        )
    if not z1.is_floating_point():
        raise ValueError(f"embeddings are floating point, not {z1.dtype}")
    if len(z1) < 2 and group is None:
        raise ValueError(
            f"Barlow Twins compares images within a batch: it needs at least 2, not {len(z1)}"
        )


def _standardize(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Standardised columns of z [N, D], and the reciprocal deviations [D]."""
    z = z if z.dtype == torch.float64 else z.float()
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    rstd = (variance + eps).rsqrt()
    return (z - mean) * rstd, rstd


def _standardize_backward(gradient: Tensor, standardized: Tensor, rstd: Tensor) -> Tensor:
    along = (gradient * standardized).mean(0)
    return (gradient - gradient.mean(0) - standardized * along) * rstd


class _BarlowTwinsLoss(torch.autograd.Function):
    """Forward and backward by formula.

    dual: with K1 = Z1 Z1', K2 = Z2 Z2', d = diag(Z1' Z2) / N,
        loss = sum (d - 1)^2 + lambd (<K1, K2> / N^2 - sum d^2), as ||Z1' Z2||^2 = tr(K1 K2);
        dZ1 = (2 lambd / N^2) K2 Z1 + Z2 e / N, e = 2 (d - 1) - 2 lambd d; dZ2 alike.
    primal: C = Z1' Z2 / N and its derivative M, dZ1 = Z2 M' / N, dZ2 = Z1 M / N.
    """

    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool) -> Tensor:
        a, rstd_a = _standardize(z1, eps)
        b, rstd_b = _standardize(z2, eps)
        n = len(a)
        if dual:
            d = (a * b).sum(0) / n
            k1, k2 = a @ a.T, b @ b.T
            squares = (k1 * k2).sum() / n**2
            extra = (k1, k2, d)
        else:
            c = a.T @ b / n
            d = c.diagonal()
            squares = c.square().sum()
            extra = (c,)
        ctx.save_for_backward(a, b, rstd_a, rstd_b, *extra)
        ctx.lambd, ctx.dual, ctx.dtype = lambd, dual, z1.dtype
        return (d - 1).square().sum() + lambd * (squares - d.square().sum())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, rstd_a, rstd_b, *extra = ctx.saved_tensors
        n, lambd = len(a), ctx.lambd
        if ctx.dual:
            k1, k2, d = extra
            e = (2 * (d - 1) - 2 * lambd * d) / n
            da = torch.addmm(b * e, k2, a, alpha=2 * lambd / n**2)
            db = torch.addmm(a * e, k1, b, alpha=2 * lambd / n**2)
        else:
            (c,) = extra
            d = c.diagonal()
            m = (2 * lambd / n) * c
            m.diagonal().copy_(2 * (d - 1) / n)
            da, db = b @ m.T, a @ m
        da = _standardize_backward(da, a, rstd_a) * gradient
        db = _standardize_backward(db, b, rstd_b) * gradient
        return da.to(ctx.dtype), db.to(ctx.dtype), None, None, None


def choose_method(n: int, d: int) -> str:
    """``dual`` where its 8 N^2 D operations are fewer than the primal form's 6 N D^2."""
    return "dual" if 4 * n < 3 * d else "primal"


def barlow_twins_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    lambd: float = 0.0051,
    scale: float = 1.0,
    eps: float = 1e-5,
    method: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Barlow Twins: the cross-correlation of two views' embeddings should be the identity.

    With Z1, Z2 the embeddings standardised over the batch by column (biased variance) and
    C = Z1' Z2 / N: loss = scale * (sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2).

    Args:
        z1, z2: embeddings [N, D] of two views, N at least 2; float16, bfloat16, float32 or float64.
        lambd: weight of the off-diagonal terms.
        scale: factor of the whole.
        eps: added to each variance.
        method: ``"primal"`` builds C [D, D], ``"dual"`` two [N, N] matrices in its place, with the
            same value; ``"auto"`` takes the one with fewer operations.
        group: processes whose rows, in the order of their ranks, are one batch; numbers of rows may
            differ. Every process gets the loss of the whole; its gradients are right once they are
            averaged over the processes.

    Returns:
        A scalar, float32, or float64 for float64 embeddings. Differentiable once; the reference is
        differentiable any number of times.

    Raises:
        ValueError: shapes, dtypes or devices differ, or there is a single row.

    Source: Zbontar et al., arXiv 2103.03230; the dual form follows from ||Z1' Z2||^2 = tr(K1 K2).
    """
    check(z1, z2, method, group)
    if group is not None:
        z1, z2 = gather_rows(z1, group), gather_rows(z2, group)
    if method == "auto":
        method = choose_method(*z1.shape)
    with torch.autocast(z1.device.type, enabled=False):
        return scale * _BarlowTwinsLoss.apply(z1, z2, lambd, eps, method == "dual")
