"""The Barlow Twins loss of two feature matrices without ever storing standardized features.

With Z1, Z2 [N, D] standardized over the batch, d_i = (Z1' Z2)_ii / N and either the D x D matrix
C = Z1' Z2 / N (primal) or the N x N matrices K1 = Z1 Z1', K2 = Z2 Z2' (dual):

    loss = sum (d - 1)^2 + lambd (|C|^2 - sum d^2),    |C|^2 = <K1, K2> / N^2
    dL/dZ1 = (2 lambd / N) Z2 C' + Z2 e  =  (2 lambd / N^2) K2 Z1 + Z2 e,
    e_i = (2 (d_i - 1) - 2 lambd d_i) / N

Primal takes 6 N D^2 operations, dual 8 N^2 D. Columns of Z1 sum to zero and so do those of the
gradient, which is why dz = rstd (G - Z mean(G Z)) has no term with the mean of G.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels import barlow_twins_dual as dual_form
from ssfnas.kernels import barlow_twins_primal as primal_form
from ssfnas.kernels.layout import accumulator, on_device
from ssfnas.kernels.reductions import TRITON_TYPE, loop_steps
from ssfnas.kernels.standardized import standardized
from ssfnas.kernels.tiles import ceil_div, power_of_two

_COLUMNS = 16
_ROWS = 64
# Of a sum, added at once.
_TERMS = 1024


@triton.jit
def _statistics_kernel(
    z1,
    z2,
    mean,
    rstd,
    e,
    terms,
    n,
    d,
    LAMBD: tl.constexpr,
    EPS: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Per column: mean and rstd of both inputs, e; per program: sum (d - 1)^2 - lambd d^2."""
    program = tl.program_id(0).to(tl.int64)
    column = program * COLUMNS + tl.arange(0, COLUMNS)
    live = column < d
    sum1 = tl.zeros([ROWS, COLUMNS], ACC)
    sum2 = tl.zeros([ROWS, COLUMNS], ACC)
    for step in range(STEPS):
        row = step * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & live[None, :]
        offsets = row[:, None] * d + column[None, :]
        sum1 += tl.load(z1 + offsets, mask=mask, other=0.0).to(ACC)
        sum2 += tl.load(z2 + offsets, mask=mask, other=0.0).to(ACC)
    mean1 = tl.sum(sum1, 0) / n
    mean2 = tl.sum(sum2, 0) / n
    square1 = tl.zeros([ROWS, COLUMNS], ACC)
    square2 = tl.zeros([ROWS, COLUMNS], ACC)
    cross = tl.zeros([ROWS, COLUMNS], ACC)
    for step in range(STEPS):
        row = step * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & live[None, :]
        offsets = row[:, None] * d + column[None, :]
        x1 = tl.load(z1 + offsets, mask=mask, other=0.0).to(ACC)
        x2 = tl.load(z2 + offsets, mask=mask, other=0.0).to(ACC)
        x1 = tl.where(mask, x1 - mean1[None, :], 0.0)
        x2 = tl.where(mask, x2 - mean2[None, :], 0.0)
        square1 += x1 * x1
        square2 += x2 * x2
        cross += x1 * x2
    eps = tl.full([COLUMNS], EPS, ACC)
    rstd1 = 1.0 / tl.sqrt(tl.sum(square1, 0) / n + eps)
    rstd2 = 1.0 / tl.sqrt(tl.sum(square2, 0) / n + eps)
    diagonal = tl.sum(cross, 0) / n * rstd1 * rstd2
    lambd = tl.full([COLUMNS], LAMBD, ACC)
    off = diagonal - 1.0
    term = tl.where(live, off * off - lambd * diagonal * diagonal, 0.0)
    tl.store(mean + column, mean1, mask=live)
    tl.store(mean + d + column, mean2, mask=live)
    tl.store(rstd + column, rstd1, mask=live)
    tl.store(rstd + d + column, rstd2, mask=live)
    tl.store(e + column, 2.0 * (off - lambd * diagonal) / n, mask=live)
    tl.store(terms + program, tl.sum(term, 0))


@triton.jit
def _loss_kernel(
    diagonal,
    squares,
    loss,
    diagonals,
    count,
    n,
    LAMBD: tl.constexpr,
    DUAL: tl.constexpr,
    DIAGONAL_STEPS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """loss = sum of the diagonal's terms + lambd |C|^2, by one program in a fixed order."""
    lane = tl.arange(0, BLOCK)
    first = tl.zeros([BLOCK], ACC)
    for step in range(DIAGONAL_STEPS):
        place = step * BLOCK + lane
        first += tl.load(diagonal + place, mask=place < diagonals, other=0.0)
    second = tl.zeros([BLOCK], ACC)
    for step in range(STEPS):
        place = step * BLOCK + lane
        second += tl.load(squares + place, mask=place < count, other=0.0)
    squared = tl.sum(second, 0)
    if DUAL:
        squared = squared / n / n
    lambd = tl.sum(tl.where(lane == 0, tl.full([BLOCK], LAMBD, ACC), 0.0), 0)
    tl.store(loss, tl.sum(first, 0) + lambd * squared)


@triton.jit
def _destandardize_kernel(
    z1,
    z2,
    mean,
    rstd,
    g1,
    g2,
    grad_loss,
    dz1,
    dz2,
    n,
    d,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """dz = grad_loss rstd (G - Z mean(G Z)); grid (column blocks, 2)."""
    side = tl.program_id(1)
    z = tl.where(side == 0, z1, z2)
    g = tl.where(side == 0, g1, g2)
    dz = tl.where(side == 0, dz1, dz2)
    mean += side * d
    rstd += side * d
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], ACC)
    for step in range(STEPS):
        row = step * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & (column < d)[None, :]
        x = standardized(z, mean, rstd, row[:, None], column[None, :], n, d, ACC)
        total += x * tl.load(g + row[:, None] * d + column[None, :], mask=mask, other=0.0)
    projection = tl.sum(total, 0) / n
    factor = tl.load(rstd + column, mask=column < d, other=0.0) * tl.load(grad_loss).to(ACC)
    for step in range(STEPS):
        row = step * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & (column < d)[None, :]
        offsets = row[:, None] * d + column[None, :]
        x = standardized(z, mean, rstd, row[:, None], column[None, :], n, d, ACC)
        value = tl.load(g + offsets, mask=mask, other=0.0) - x * projection[None, :]
        tl.store(dz + offsets, (factor[None, :] * value).to(dz.dtype.element_ty), mask=mask)


Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def barlow_twins_forward(
    z1: Tensor, z2: Tensor, lambd: float, eps: float, dual: bool
) -> tuple[Tensor, Saved]:
    """The Barlow Twins loss over the rows given.

    Args:
        z1: features of the first views, [N, D], N > 0 and D > 0.
        z2: features of the second views, [N, D], of the same dtype.
        lambd: weight of the off-diagonal terms.
        eps: added to the biased variance of a column.
        dual: by N x N matrices, else by a D x D one.

    Returns:
        The loss, a float32 (float64) scalar without any further scale, and what
        :func:`barlow_twins_backward` needs: (z1, z2, mean [2, D], rstd [2, D], e [D],
        the matrix: [2, N, N] if dual, else [D, D]).
    """
    z1, z2 = z1.contiguous(), z2.contiguous()
    n, d = z1.shape
    dtype = accumulator(z1.dtype)
    acc = TRITON_TYPE[dtype]
    mean = torch.empty((2, d), dtype=dtype, device=z1.device)
    rstd = torch.empty_like(mean)
    e = torch.empty(d, dtype=dtype, device=z1.device)
    blocks = ceil_div(d, _COLUMNS)
    diagonal = torch.empty(blocks, dtype=dtype, device=z1.device)
    loss = torch.empty((), dtype=dtype, device=z1.device)
    rows = min(_ROWS, power_of_two(n))
    with on_device(z1):
        _statistics_kernel[(blocks,)](
            z1,
            z2,
            mean,
            rstd,
            e,
            diagonal,
            n,
            d,
            LAMBD=float(lambd),
            EPS=float(eps),
            STEPS=ceil_div(n, rows),
            ROWS=rows,
            COLUMNS=_COLUMNS,
            ACC=acc,
            num_warps=4,
        )
        matrix, terms = (dual_form if dual else primal_form).matrix(z1, z2, mean, rstd)
        _loss_kernel[(1,)](
            diagonal,
            terms,
            loss,
            blocks,
            terms.numel(),
            n,
            LAMBD=float(lambd),
            DUAL=dual,
            DIAGONAL_STEPS=loop_steps(blocks, _TERMS),
            STEPS=loop_steps(terms.numel(), _TERMS),
            BLOCK=_TERMS,
            ACC=acc,
            num_warps=4,
        )
    return loss, (z1, z2, mean, rstd, e, matrix)


def barlow_twins_backward(saved: Saved, lambd: float, grad_loss: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`barlow_twins_forward`.

    Args:
        saved: what the forward returned.
        lambd: as it was there.
        grad_loss: gradient of the loss, a scalar tensor (it is not read by the host).

    Returns:
        dz1 and dz2, [N, D], in the dtype of the features.
    """
    z1, z2, mean, rstd, e, matrix = saved
    n, d = z1.shape
    dz1, dz2 = torch.empty_like(z1), torch.empty_like(z2)
    rows = min(_ROWS, power_of_two(n))
    form = dual_form if matrix.dim() == 3 else primal_form
    with on_device(z1):
        g1, g2 = form.gradients(z1, z2, mean, rstd, e, matrix, lambd)
        _destandardize_kernel[(ceil_div(d, _COLUMNS), 2)](
            z1,
            z2,
            mean,
            rstd,
            g1,
            g2,
            grad_loss,
            dz1,
            dz2,
            n,
            d,
            STEPS=ceil_div(n, rows),
            ROWS=rows,
            COLUMNS=_COLUMNS,
            ACC=TRITON_TYPE[mean.dtype],
            num_warps=4,
        )
    return dz1, dz2
