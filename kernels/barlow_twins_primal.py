"""The primal form of the Barlow Twins loss: by C = Z1' Z2 / N, [D, D].

dL/dZ1 = (2 lambd / N) Z2 C' + Z2 e,    dL/dZ2 = (2 lambd / N) Z1 C + Z1 e
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.standardized import (
    DEPTH,
    TILE,
    product_options,
    standardized,
    store_gradient,
)
from ssfnas.kernels.tiles import ceil_div


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
        a = standardized(z1, mean, rstd, row[None, :], i[:, None], n, d, ACC)
        b = standardized(z2, mean + d, rstd + d, row[:, None], j[None, :], n, d, ACC)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    total = total / n
    mask = (i < d)[:, None] & (j < d)[None, :]
    tl.store(correlation + i[:, None] * d + j[None, :], total, mask=mask)
    total = tl.where(mask, total * total, 0.0)
    tl.store(terms + program, tl.sum(tl.sum(total, 1), 0))


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
        a = standardized(other, mean, rstd, row[:, None], depth[None, :], n, d, ACC)
        mask = (depth < d)[:, None] & (column < d)[None, :]
        if TRANSPOSED:
            offsets = column[None, :] * d + depth[:, None]
        else:
            offsets = depth[:, None] * d + column[None, :]
        b = tl.load(correlation + offsets, mask=mask, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)
    factor = tl.full([1, 1], 2.0 * LAMBD, ACC) / n
    store_gradient(total, e, other, mean, rstd, out, row, column, n, d, factor, ACC)


def matrix(z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """C [D, D], and partial sums of its squares."""
    (n, d), dtype = z1.shape, mean.dtype
    tiles = ceil_div(d, TILE)
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
        STEPS=ceil_div(n, DEPTH),
        **product_options(dtype),
    )
    return correlation, terms


def gradients(
    z1: Tensor, z2: Tensor, mean: Tensor, rstd: Tensor, e: Tensor, matrix: Tensor, lambd: float
) -> tuple[Tensor, Tensor]:
    """dL/dZ1 and dL/dZ2, [N, D] in the dtype of ``mean``."""
    n, d = z1.shape
    g1 = torch.empty((n, d), dtype=mean.dtype, device=z1.device)
    g2 = torch.empty_like(g1)
    tiles = ceil_div(d, TILE)
    for side, (other, out) in enumerate(((z2, g1), (z1, g2))):
        _primal_gradient_kernel[(ceil_div(n, TILE) * tiles,)](
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
            STEPS=ceil_div(d, DEPTH),
            **product_options(mean.dtype),
        )
    return g1, g2
