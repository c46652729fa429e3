"""The Barlow Twins loss without the matrix that its definition builds, where that pays."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.collectives import gather_rows
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.selection import choose, primitive, requested, wants_reference
from ssfnas.ops.torch_barlow_twins import Saved

METHODS = ("auto", "primal", "dual")
_OP = "barlow_twins_loss"


def standardized(z: Tensor, eps: float = 1e-5) -> Tensor:
    """Columns of z [N, D] with mean 0 and biased variance 1 over the rows, at least in float32."""
    z = z.to(accumulator(z.dtype))
    return (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()


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
    """The definition of :func:`barlow_twins_loss`, differentiable any number of times.

    ``method`` is checked and changes nothing.
    """
    z1, z2 = _whole_batch(z1, z2, method, group)
    with without_autocast(z1):
        c = standardized(z1, eps).T @ standardized(z2, eps) / len(z1)
        on_diagonal = (c.diagonal() - 1).square().sum()
        off_diagonal = (c - c.diagonal().diag()).square().sum()
        return scale * (on_diagonal + lambd * off_diagonal)


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

    With Z1, Z2 the embeddings standardized over the batch by column (biased variance) and
    C = Z1' Z2 / N: loss = scale * (sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2).

    Args:
        z1, z2: embeddings [N, D] of two views, N at least 2; float16, bfloat16, float32 or float64.
            Everything is computed in float32 at least, under autocast as well.
        lambd: weight of the off-diagonal terms.
        scale: factor of the whole.
        eps: added to each variance.
        method: ``"primal"`` builds C [D, D], ``"dual"`` two [N, N] matrices in its place, with the
            same value; ``"auto"`` takes the one with fewer operations (dual where N < 3 D / 4).
        group: processes whose rows, in the order of their ranks, are one batch; numbers of rows may
            differ. Every process gets the loss of the whole, has to weigh it alike, and gets
            gradients that are right once they are averaged over the processes.

    Returns:
        A scalar, float32, or float64 for float64 embeddings. Differentiable once; the reference is
        differentiable any number of times.

    Raises:
        RequestError: shapes, dtypes or devices differ, or there are fewer than two rows.
        BackendError: a backend was asked for by name and cannot take these tensors.

    Source: Zbontar et al., arXiv 2103.03230; the dual form follows from ||Z1' Z2||^2 = tr(K1 K2).
    """
    if wants_reference():
        return barlow_twins_loss_reference(
            z1, z2, lambd=lambd, scale=scale, eps=eps, method=method, group=group
        )
    z1, z2 = _whole_batch(z1, z2, method, group)
    dual = is_dual(z1.shape[0], z1.shape[1], method)
    if torch.compiler.is_compiling():
        loss = _forward_op(z1, z2, lambd, eps, dual, requested())[0]
    else:
        name = choose(_OP, (z1, z2), requested())
        loss = _BarlowTwinsLoss.apply(z1, z2, lambd, eps, dual, name)
    return loss if scale == 1 else scale * loss


def is_dual(n: int, d: int, method: str) -> bool:
    """Whether the N x N form is meant: with ``"auto"``, where it takes fewer operations."""
    return method == "dual" or (method == "auto" and 4 * n < 3 * d)


def _whole_batch(
    z1: Tensor, z2: Tensor, method: str, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """The embeddings of all processes, checked."""
    if method not in METHODS:
        raise RequestError(f"{_OP}: method is '{method}': it is one of {', '.join(METHODS)}")
    if z1.dim() != 2 or z1.shape != z2.shape or z1.shape[1] == 0:
        raise RequestError(
            f"{_OP}: embeddings have the shapes {list(z1.shape)} and {list(z2.shape)}: both have "
            "to be [N, D], N images and D dimensions"
        )
    if z1.dtype != z2.dtype or not z1.is_floating_point():
        raise RequestError(
            f"{_OP}: embeddings are {z1.dtype} and {z2.dtype}: both have to be of one floating "
            "dtype"
        )
    if z1.device != z2.device:
        raise RequestError(
            f"{_OP}: embeddings are on {z1.device} and {z2.device}: both have to be on one device"
        )
    if group is not None:
        # One gathering for both: [n, 2 D] in place of twice [n, D].
        both = gather_rows(torch.cat([z1, z2], dim=1), group, replicated=True)
        z1, z2 = both.chunk(2, dim=1)
    if z1.shape[0] < 2:
        raise RequestError(
            f"{_OP}: the batch has {z1.shape[0]} image(s): correlations over a batch need at "
            "least 2"
        )
    return z1, z2


class _BarlowTwinsLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool, name: str
    ) -> Tensor:
        loss, saved = _forward(name, z1, z2, lambd, eps, dual)
        ctx.name, ctx.lambd = name, lambd
        ctx.save_for_backward(*saved)
        return loss

    @staticmethod
    @differentiable_once(_OP)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad):
            dz1, dz2 = primitive(ctx.name, "barlow_twins_backward")(
                ctx.saved_tensors, ctx.lambd, grad
            )
        needs = ctx.needs_input_grad
        return dz1 if needs[0] else None, dz2 if needs[1] else None, None, None, None, None


def _forward(
    name: str, z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool
) -> tuple[Tensor, Saved]:
    with without_autocast(z1):
        loss, saved = primitive(name, "barlow_twins_forward")(
            z1.contiguous(), z2.contiguous(), lambd, eps, dual
        )
        return loss, saved


# The op returns the loss and what its gradient needs: mean, rstd [2, D], e [D] and the matrix.
@torch.library.custom_op("ssfnas::barlow_twins_loss", mutates_args=())
def _forward_op(
    z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, saved = _forward(choose(_OP, (z1, z2), backend), z1, z2, lambd, eps, dual)
    return loss, *saved[2:]


@_forward_op.register_fake
def _(
    z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, d = z1.shape
    moments = z1.new_empty(2, d, dtype=accumulator(z1.dtype))
    matrix = moments.new_empty((2, n, n) if dual else (d, d))
    return moments.new_empty(()), moments, moments.clone(), moments.new_empty(d), matrix


@torch.library.custom_op("ssfnas::barlow_twins_loss_backward", mutates_args=())
def _backward_op(
    grad: Tensor,
    z1: Tensor,
    z2: Tensor,
    mean: Tensor,
    rstd: Tensor,
    e: Tensor,
    matrix: Tensor,
    lambd: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    name = choose(_OP, (z1, z2), backend)
    saved = (z1.contiguous(), z2.contiguous(), mean, rstd, e, matrix)
    with without_autocast(z1):
        dz1, dz2 = primitive(name, "barlow_twins_backward")(saved, lambd, grad)
    return dz1, dz2


@_backward_op.register_fake
def _(grad: Tensor, z1: Tensor, z2: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return z1.new_empty(z1.shape), z2.new_empty(z2.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, ctx.lambd, _, _, ctx.backend = inputs
    ctx.save_for_backward(z1, z2, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


@differentiable_once(_OP)
def _op_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    dz1, dz2 = _backward_op(grad, *ctx.saved_tensors, ctx.lambd, ctx.backend)
    needs = ctx.needs_input_grad
    return dz1 if needs[0] else None, dz2 if needs[1] else None, None, None, None, None


_forward_op.register_autograd(_op_backward, setup_context=_setup_context)
