"""Coefficients of normalized sums, one launch each.

Definitions: ``ssfnas.ops.norm_coefficients``.

Tables of a few hundred rows take no time to compute, but a search step makes hundreds of them, and
written as products, sums and copies each would be some ten launches.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import on_device
from ssfnas.kernels.tiles import ceil_div, power_of_two

_BLOCK = 512
_ROWS = 16
_WIDEST = 64


@triton.jit
def _enter_kernel(
    table, mean, var, gamma, beta, start, kind, count, EPS: tl.constexpr, BLOCK: tl.constexpr
):
    """mean, var, rstd, scale and shift from element ``start`` on, ``kind`` elements apart."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    m = tl.load(mean + place, mask=mask, other=0.0)
    v = tl.load(var + place, mask=mask, other=1.0)
    rstd = 1.0 / tl.sqrt(v + EPS)
    to = table + start + place
    tl.store(to, m, mask=mask)
    tl.store(to + kind, v, mask=mask)
    tl.store(to + 2 * kind, rstd, mask=mask)
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + place, mask=mask, other=0.0)
    shift = -m * scale
    if beta is not None:
        shift += tl.load(beta + place, mask=mask, other=0.0)
    tl.store(to + 3 * kind, scale, mask=mask)
    tl.store(to + 4 * kind, shift, mask=mask)


@triton.jit
def _node_kernel(
    table,
    rows,
    weights,
    places,
    out,
    b,
    all_rows,
    channels,
    K: tl.constexpr,
    SEPARATE: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """mean, rstd and a of a node's candidates, and b or its parts, for one block of channels."""
    channel = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    live = channel < channels
    total = tl.zeros([ROWS, LANES], table.dtype.element_ty)
    kind = all_rows.to(tl.int64) * channels
    for first in tl.static_range(0, K, ROWS):
        k = first + tl.arange(0, ROWS)
        known = k < K
        mask = known[:, None] & live[None, :]
        weight = tl.load(weights + tl.load(places + k, mask=known, other=0), mask=known, other=0.0)
        row = tl.load(rows + k, mask=known, other=0)
        at = table + row[:, None] * channels + channel[None, :]
        mean = tl.load(at, mask=mask, other=0.0)
        rstd = tl.load(at + 2 * kind, mask=mask, other=0.0)
        scale = tl.load(at + 3 * kind, mask=mask, other=0.0)
        part = weight[:, None] * tl.load(at + 4 * kind, mask=mask, other=0.0)
        place = k.to(tl.int64)[:, None] * channels + channel[None, :]
        tl.store(out + place, mean, mask=mask)
        tl.store(out + place + K * channels, rstd, mask=mask)
        tl.store(out + place + 2 * K * channels, weight[:, None] * scale, mask=mask)
        if SEPARATE:
            tl.store(b + place, part, mask=mask)
        else:
            total += part
    if not SEPARATE:
        tl.store(b + channel, tl.sum(total, 0), mask=live)


@triton.jit
def _gradient_kernel(
    table,
    rows,
    a,
    mean,
    rstd,
    s0,
    s1,
    count,
    inputs,
    channels,
    blocks,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """p, q and r of a block of candidates and channels; ``s0`` is one for EACH, or one for all."""
    pid = tl.program_id(0).to(tl.int64)
    k = (pid // blocks) * ROWS + tl.arange(0, ROWS)
    channel = (pid % blocks) * LANES + tl.arange(0, LANES)
    known, live = k < inputs, channel < channels
    mask = known[:, None] & live[None, :]
    place = k[:, None] * channels + channel[None, :]
    factor = tl.load(a + place, mask=mask, other=0.0)
    if EACH:
        sums = tl.load(s0 + place, mask=mask, other=0.0)
    else:
        sums = tl.load(s0 + channel, mask=live, other=0.0)[None, :]
    slope = factor * tl.load(rstd + place, mask=mask, other=0.0)
    slope *= tl.load(s1 + place, mask=mask, other=0.0) / count
    constant = slope * tl.load(mean + place, mask=mask, other=0.0) - factor * (sums / count)
    p = table + tl.load(rows + k, mask=known, other=0)[:, None] * channels + channel[None, :]
    q = tl.load(rows + inputs + k, mask=known, other=0)
    q = table + q[:, None] * channels + channel[None, :]
    r = tl.load(rows + 2 * inputs + k, mask=known, other=0)
    r = table + r[:, None] * channels + channel[None, :]
    tl.store(p, factor, mask=mask)
    tl.store(q, tl.load(q, mask=mask, other=0.0) - slope, mask=mask)
    tl.store(r, tl.load(r, mask=mask, other=0.0) + constant, mask=mask)


def enter_statistics(
    table: Tensor,
    start: int,
    mean: Tensor,
    var: Tensor,
    eps: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> None:
    """Write rows of mean, var, rstd, scale and shift into a table [5, R, C] from row ``start`` on.

    Args:
        table: float32 or float64, dense.
        start: the first of the K rows.
        mean, var: [K, C], of the table's dtype.
        eps: added to the variance.
        gamma, beta: weights and biases of the BatchNorms, [K, C], or both None.
    """
    if mean.numel() == 0:
        return
    channels = table.shape[2]
    with on_device(table):
        _enter_kernel[(ceil_div(mean.numel(), _BLOCK),)](
            table,
            mean.contiguous(),
            var.contiguous(),
            None if gamma is None else gamma.contiguous(),
            None if beta is None else beta.contiguous(),
            start * channels,
            table.shape[1] * channels,
            mean.numel(),
            EPS=eps,
            BLOCK=_BLOCK,
            num_warps=4,
        )


def node_coefficients(
    table: Tensor, rows: Tensor, weights: Tensor, places: Tensor, separate: bool = False
) -> tuple[Tensor, Tensor]:
    """mean, rstd and a = w scale, [3, K, C], and b = sum_k w_k shift_k, [C].

    Args:
        table: statistics [5, R, C].
        rows: int64 [K].
        weights: [W], of the table's dtype.
        places: int64 [K], where the weights are.
        separate: whether the K parts of b are wanted in its place, [K, C].
    """
    count, channels = len(rows), table.shape[2]
    out = torch.empty((3, count, channels), dtype=table.dtype, device=table.device)
    b = out.new_empty((count, channels) if separate else channels)
    lanes = min(power_of_two(channels), _WIDEST)
    with on_device(table):
        _node_kernel[(ceil_div(channels, lanes),)](
            table,
            rows,
            weights.contiguous(),
            places,
            out,
            b,
            table.shape[1],
            channels,
            K=count,
            SEPARATE=separate,
            ROWS=min(power_of_two(count), _ROWS),
            LANES=lanes,
            num_warps=4,
        )
    return out, b


def gradient_coefficients(
    table: Tensor,
    rows: Tensor,
    a: Tensor,
    mean: Tensor,
    rstd: Tensor,
    s0: Tensor,
    s1: Tensor,
    count: int | Tensor,
) -> None:
    """p = a, q = -slope, r = slope mean - a s0 / count, with slope = a rstd s1 / count.

    Args:
        table: gradients [T, C], dense; p overwrites its row, q and r are added to theirs.
        rows: int64 [3, K], of p, q and r; no row twice.
        a, mean, rstd, s1: [K, C], of the table's dtype.
        s0: [C] or [K, C].
        count: values a channel; a tensor is divided by before the launch.
    """
    if isinstance(count, Tensor):
        s0, s1, count = s0 / count, s1 / count, 1
    inputs, channels = a.shape
    lanes = min(power_of_two(channels), _WIDEST)
    height, blocks = min(power_of_two(inputs), _ROWS), ceil_div(channels, lanes)
    with on_device(table):
        _gradient_kernel[(ceil_div(inputs, height) * blocks,)](
            table,
            rows,
            *(values.contiguous() for values in (a, mean, rstd, s0, s1)),
            count,
            inputs,
            channels,
            blocks,
            EACH=s0.dim() == 2,
            ROWS=height,
            LANES=lanes,
            num_warps=4,
        )
