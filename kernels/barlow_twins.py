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

from ssfnas.kernels.layout import accumulator, on_device
from ssfnas.kernels.reductions import TRITON_TYPE, loop_steps
from ssfnas.kernels.tiles import ceil_div, power_of_two

_COLUMNS = 16
_ROWS = 64
_TILE = 64
_DEPTH = 16
_WARPS = 8
# Two programs an SM; float64, rarely used, may take all.
_REGISTERS = {torch.float32: 128, torch.float64: 255}
_FLAT = 1024
# About two programs for each of the 132 SMs of an H100 or H200.
_PROGRAMS = 264


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
def _standardized(z, mean, rstd, row, column, n, d, ACC: tl.constexpr):
    """((z - mean) rstd)[row, column], 0 outside; row and column broadcast to one shape."""
    mask = (row < n) & (column < d)
    x = tl.load(z + row * d + column, mask=mask, other=0.0).to(ACC)
    m = tl.load(mean + column, mask=column < d, other=0.0).to(ACC)
    s = tl.load(rstd + column, mask=column < d, other=0.0).to(ACC)
    return tl.where(mask, (x - m) * s, 0.0)


@triton.jit
def _gram_kernel(
    z1,
    z2,
    mean,
    rstd,
    partials,
    n,
    d,
    tiles,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """partials[split, side] = Z Z' over this split's columns; grid (tiles^2, splits, 2)."""
    i = tl.program_id(0) // tiles
    j = tl.program_id(0) % tiles
    split = tl.program_id(1)
    side = tl.program_id(2)
    z = tl.where(side == 0, z1, z2)
    mean += side * d
    rstd += side * d
    # Symmetric: tiles above the diagonal are written by those below.
    if i >= j:
        rows = (i * TILE + tl.arange(0, TILE)).to(tl.int64)
        others = (j * TILE + tl.arange(0, TILE)).to(tl.int64)
        total = tl.zeros([TILE, TILE], ACC)
        for step in range(STEPS):
            column = ((split * STEPS + step) * DEPTH + tl.arange(0, DEPTH)).to(tl.int64)
            a = _standardized(z, mean, rstd, rows[:, None], column[None, :], n, d, ACC)
            b = _standardized(z, mean, rstd, others[None, :], column[:, None], n, d, ACC)
            total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
        out = partials + (split * 2 + side).to(tl.int64) * n * n
        mask = (rows < n)[:, None] & (others < n)[None, :]
        tl.store(out + rows[:, None] * n + others[None, :], total, mask=mask)
        if i > j:
            tl.store(out + others[None, :] * n + rows[:, None], total, mask=mask)


@triton.jit
def _combine_kernel(
    partials, gram, terms, length, SPLITS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr
):
    """gram[side] = sum_splits partials[split, side]; terms[program] = part of <K1, K2>."""
    program = tl.program_id(0).to(tl.int64)
    place = program * BLOCK + tl.arange(0, BLOCK)
    live = place < length
    k1 = tl.zeros([BLOCK], ACC)
    k2 = tl.zeros([BLOCK], ACC)
    for split in range(SPLITS):
        k1 += tl.load(partials + split * 2 * length + place, mask=live, other=0.0)
        k2 += tl.load(partials + (split * 2 + 1) * length + place, mask=live, other=0.0)
    tl.store(gram + place, k1, mask=live)
    tl.store(gram + length + place, k2, mask=live)
    tl.store(terms + program, tl.sum(k1 * k2, 0))


@triton.jit
def _correlation_kernel(
    z1,
    z2,
    mean,
    rstd,
    correlation,
    terms,
    n,
    d,
    tiles,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """correlation = Z1' Z2 / N [D, D]; terms[program] = the tile's sum of squares."""
    program = tl.program_id(0).to(tl.int64)
    i = (program // tiles) * TILE + tl.arange(0, TILE)
    j = (program % tiles) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], ACC)
    for step in range(STEPS):
        row = step * DEPTH + tl.arange(0, DEPTH).to(tl.int64)
        a = _standardized(z1, mean, rstd, row[None, :], i[:, None], n, d, ACC)
        b = _standardized(z2, mean + d, rstd + d, row[:, None], j[None, :], n, d, ACC)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    total = total / n
    mask = (i < d)[:, None] & (j < d)[None, :]
    tl.store(correlation + i[:, None] * d + j[None, :], total, mask=mask)
    total = tl.where(mask, total * total, 0.0)
    tl.store(terms + program, tl.sum(tl.sum(total, 1), 0))


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
def _store_gradient(
    total, weight, other, mean, rstd, out, row, column, n, d, factor, ACC: tl.constexpr
):
    """out = factor total + Z_other e."""
    weight = tl.load(weight + column, mask=column < d, other=0.0)
    z = _standardized(other, mean, rstd, row[:, None], column[None, :], n, d, ACC)
    mask = (row < n)[:, None] & (column < d)[None, :]
    value = factor * total + weight[None, :] * z
    tl.store(out + row[:, None] * d + column[None, :], value, mask=mask)


@triton.jit
def _dual_gradient_kernel(
    z1,
    z2,
    mean,
    rstd,
    e,
    gram,
    g1,
    g2,
    n,
    d,
    tiles,
    LAMBD: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """dL/dZ = (2 lambd / N^2) K_other Z + Z_other e; grid (tiles of a side, 2)."""
    program = tl.program_id(0).to(tl.int64)
    side = tl.program_id(1)
    z = tl.where(side == 0, z1, z2)
    other = tl.where(side == 0, z2, z1)
    gram += (1 - side).to(tl.int64) * n * n
    row = (program // tiles) * TILE + tl.arange(0, TILE)
    column = (program % tiles) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], ACC)
    for step in range(STEPS):
        depth = step * DEPTH + tl.arange(0, DEPTH).to(tl.int64)
        mask = (row < n)[:, None] & (depth < n)[None, :]
        a = tl.load(gram + row[:, None] * n + depth[None, :], mask=mask, other=0.0)
        b = _standardized(
            z, mean + side * d, rstd + side * d, depth[:, None], column[None, :], n, d, ACC
        )
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    factor = tl.full([1, 1], 2.0 * LAMBD, ACC) / n / n
    mean += (1 - side) * d
    rstd += (1 - side) * d
    out = tl.where(side == 0, g1, g2)
    _store_gradient(total, e, other, mean, rstd, out, row, column, n, d, factor, ACC)


@triton.jit
def _primal_gradient_kernel(
    other,
    mean,
    rstd,
    e,
    correlation,
    out,
    n,
    d,
    tiles,
    LAMBD: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """dL/dZ = (2 lambd / N) Z_other C + Z_other e (C' for Z1); mean, rstd of the other side."""
    program = tl.program_id(0).to(tl.int64)
    row = (program // tiles) * TILE + tl.arange(0, TILE)
    column = (program % tiles) * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], ACC)
    for step in range(STEPS):
        depth = step * DEPTH + tl.arange(0, DEPTH).to(tl.int64)
        a = _standardized(other, mean, rstd, row[:, None], depth[None, :], n, d, ACC)
        mask = (depth < d)[:, None] & (column < d)[None, :]
        if TRANSPOSED:
            offsets = column[None, :] * d + depth[:, None]
        else:
            offsets = depth[:, None] * d + column[None, :]
        b = tl.load(correlation + offsets, mask=mask, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    factor = tl.full([1, 1], 2.0 * LAMBD, ACC) / n
    _store_gradient(total, e, other, mean, rstd, out, row, column, n, d, factor, ACC)


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
        x = _standardized(z, mean, rstd, row[:, None], column[None, :], n, d, ACC)
        total += x * tl.load(g + row[:, None] * d + column[None, :], mask=mask, other=0.0)
    projection = tl.sum(total, 0) / n
    factor = tl.load(rstd + column, mask=column < d, other=0.0) * tl.load(grad_loss).to(ACC)
    for step in range(STEPS):
        row = step * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & (column < d)[None, :]
        offsets = row[:, None] * d + column[None, :]
        x = _standardized(z, mean, rstd, row[:, None], column[None, :], n, d, ACC)
        value = tl.load(g + offsets, mask=mask, other=0.0) - x * projection[None, :]
        tl.store(dz + offsets, (factor[None, :] * value).to(dz.dtype.element_ty), mask=mask)


def _gram(
    z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """K1 and K2, [2, N, N], and partial sums of <K1, K2>."""
    n, d = z1.shape
    tiles = ceil_div(n, _TILE)
    steps = ceil_div(d, _DEPTH)
    splits = max(1, min(_PROGRAMS // (tiles * (tiles + 1)), steps // 4))
    steps = ceil_div(steps, splits)
    splits = ceil_div(ceil_div(d, _DEPTH), steps)
    partials = torch.empty((splits, 2, n, n), dtype=dtype, device=z1.device)
    _gram_kernel[(tiles * tiles, splits, 2)](
        z1,
        z2,
        mean,
        rstd,
        partials,
        n,
        d,
        tiles,
        STEPS=steps,
        TILE=_TILE,
        DEPTH=_DEPTH,
        ACC=TRITON_TYPE[dtype],
        num_warps=_WARPS,
        maxnreg=_REGISTERS[dtype],
    )
    gram = torch.empty((2, n, n), dtype=dtype, device=z1.device)
    programs = ceil_div(n * n, _FLAT)
    terms = torch.empty(programs, dtype=dtype, device=z1.device)
    _combine_kernel[(programs,)](
        partials,
        gram,
        terms,
        n * n,
        SPLITS=splits,
        BLOCK=_FLAT,
        ACC=TRITON_TYPE[dtype],
        num_warps=4,
    )
    return gram, terms


def _correlation(
    z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """C [D, D], and partial sums of its squares."""
    n, d = z1.shape
    tiles = ceil_div(d, _TILE)
    correlation = torch.empty((d, d), dtype=dtype, device=z1.device)
    terms = torch.empty(tiles * tiles, dtype=dtype, device=z1.device)
    _correlation_kernel[(tiles * tiles,)](
        z1,
        z2,
        mean,
        rstd,
        correlation,
        terms,
        n,
        d,
        tiles,
        STEPS=ceil_div(n, _DEPTH),
        TILE=_TILE,
        DEPTH=_DEPTH,
        ACC=TRITON_TYPE[dtype],
        num_warps=_WARPS,
        maxnreg=_REGISTERS[dtype],
    )
    return correlation, terms


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
        matrix, terms = (_gram if dual else _correlation)(z1, z2, mean, rstd, dtype)
        _loss_kernel[(1,)](
            diagonal,
            terms,
            loss,
            blocks,
            terms.numel(),
            n,
            LAMBD=float(lambd),
            DUAL=dual,
            DIAGONAL_STEPS=loop_steps(blocks, _FLAT),
            STEPS=loop_steps(terms.numel(), _FLAT),
            BLOCK=_FLAT,
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
    dtype = mean.dtype
    acc = TRITON_TYPE[dtype]
    g1 = torch.empty((n, d), dtype=dtype, device=z1.device)
    g2 = torch.empty_like(g1)
    dz1, dz2 = torch.empty_like(z1), torch.empty_like(z2)
    tiles = ceil_div(d, _TILE)
    programs = ceil_div(n, _TILE) * tiles
    rows = min(_ROWS, power_of_two(n))
    with on_device(z1):
        if matrix.dim() == 3:
            _dual_gradient_kernel[(programs, 2)](
                z1,
                z2,
                mean,
                rstd,
                e,
                matrix,
                g1,
                g2,
                n,
                d,
                tiles,
                LAMBD=float(lambd),
                STEPS=ceil_div(n, _DEPTH),
                TILE=_TILE,
                DEPTH=_DEPTH,
                ACC=acc,
                num_warps=_WARPS,
                maxnreg=_REGISTERS[dtype],
            )
        else:
            for side, (other, out) in enumerate(((z2, g1), (z1, g2))):
                _primal_gradient_kernel[(programs,)](
                    other,
                    mean[1 - side],
                    rstd[1 - side],
                    e,
                    matrix,
                    out,
                    n,
                    d,
                    tiles,
                    LAMBD=float(lambd),
                    TRANSPOSED=side == 0,
                    STEPS=ceil_div(d, _DEPTH),
                    TILE=_TILE,
                    DEPTH=_DEPTH,
                    ACC=acc,
                    num_warps=_WARPS,
                    maxnreg=_REGISTERS[dtype],
                )
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
            ACC=acc,
            num_warps=4,
        )
    return dz1, dz2
