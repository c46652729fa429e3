"""The dual form of the Barlow Twins loss: by K1 = Z1 Z1' and K2 = Z2 Z2', [N, N].

|C|^2 = <K1, K2> / N^2,    dL/dZ1 = (2 lambd / N^2) K2 Z1 + Z2 e
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.reductions import TRITON_TYPE
from ssfnas.kernels.standardized import (
    DEPTH,
    TILE,
    product_options,
    standardized,
    store_gradient,
)
from ssfnas.kernels.tiles import ceil_div

_FLAT = 1024
# About two programs for each of the 132 SMs of an H100 or H200.
_PROGRAMS = 264


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
            a = standardized(z, mean, rstd, rows[:, None], column[None, :], n, d, ACC)
            b = standardized(z, mean, rstd, others[None, :], column[:, None], n, d, ACC)
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
        b = standardized(
            z, mean + side * d, rstd + side * d, depth[:, None], column[None, :], n, d, ACC
        )
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    factor = tl.full([1, 1], 2.0 * LAMBD, ACC) / n / n
    mean += (1 - side) * d
    rstd += (1 - side) * d
    out = tl.where(side == 0, g1, g2)
    store_gradient(total, e, other, mean, rstd, out, row, column, n, d, factor, ACC)


def matrix(z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """K1 and K2, [2, N, N], and partial sums of <K1, K2>."""
    (n, d), dtype = z1.shape, mean.dtype
    tiles = ceil_div(n, TILE)
    steps = ceil_div(d, DEPTH)
    splits = max(1, min(_PROGRAMS // (tiles * (tiles + 1)), steps // 4))
    steps = ceil_div(steps, splits)
    splits = ceil_div(ceil_div(d, DEPTH), steps)
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
        **product_options(dtype),
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


def gradients(
    z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor, e: Tensor, matrix: Tensor, lambd: float
) -> tuple[Tensor, Tensor]:
    """dL/dZ1 and dL/dZ2, [N, D] in the dtype of ``mean``."""
    n, d = z1.shape
    g1 = torch.empty((n, d), dtype=mean.dtype, device=z1.device)
    g2 = torch.empty_like(g1)
    tiles = ceil_div(d, TILE)
    _dual_gradient_kernel[(ceil_div(n, TILE) * tiles, 2)](
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
        STEPS=ceil_div(n, DEPTH),
        **product_options(mean.dtype),
    )
    return g1, g2
