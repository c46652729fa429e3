"""Features [N, D] standardized over the batch as they are loaded, and products of tiles of them.

Z = (z - mean) rstd is stored nowhere: kernels take z, and mean and rstd [D] of its columns.
"""

# mypy: allow-untyped-defs
from typing import Any

import torch
import triton
import triton.language as tl

from ssfnas.kernels.reductions import TRITON_TYPE

TILE = 64
DEPTH = 16
# Two programs an SM; float64, rarely used, may take all.
_REGISTERS = {torch.float32: 128, torch.float64: 255}


def product_options(dtype: torch.dtype) -> dict[str, Any]:
    """What all launches of kernels have in common that multiply tiles, accumulated in ``dtype``."""
    return {
        "TILE": TILE,
        "DEPTH": DEPTH,
        "ACC": TRITON_TYPE[dtype],
        "num_warps": 8,
        "maxnreg": _REGISTERS[dtype],
    }


@triton.jit
def standardized(z, mean, rstd, row, column, n, d, ACC: tl.constexpr):
    """((z - mean) rstd)[row, column], 0 outside; row and column broadcast to one shape."""
    mask = (row < n) & (column < d)
    x = tl.load(z + row * d + column, mask=mask, other=0.0).to(ACC)
    m = tl.load(mean + column, mask=column < d, other=0.0).to(ACC)
    s = tl.load(rstd + column, mask=column < d, other=0.0).to(ACC)
    return tl.where(mask, (x - m) * s, 0.0)


@triton.jit
def store_gradient(
    total, weight, other, mean, rstd, out, row, column, n, d, factor, ACC: tl.constexpr
):
    """out = factor total + Z_other e."""
    weight = tl.load(weight + column, mask=column < d, other=0.0)
    z = standardized(other, mean, rstd, row[:, None], column[None, :], n, d, ACC)
    mask = (row < n)[:, None] & (column < d)[None, :]
    value = factor * total + weight[None, :] * z
    tl.store(out + row[:, None] * d + column[None, :], value, mask=mask)
