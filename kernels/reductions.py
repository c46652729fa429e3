"""The second stage of every reduction: partial results summed in a fixed order, without atomics."""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.tiles import ceil_div, power_of_two

_BLOCK_ELEMENTS = 4096
_WIDEST_CHANNEL_BLOCK = 64

TRITON_TYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _sum_partials_kernel(
    partials,
    out,
    count,
    channels,
    blocks,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """out[r, c] = sum_t partials[r, t, c]."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // blocks
    channel = (pid % blocks) * LANES + tl.arange(0, LANES)
    live = channel < channels
    total = tl.zeros([ROWS, LANES], partials.dtype.element_ty)
    for step in range(STEPS):
        part = step * ROWS + tl.arange(0, ROWS)
        offsets = (row * count + part)[:, None] * channels + channel[None, :]
        mask = (part < count)[:, None] & live[None, :]
        total += tl.load(partials + offsets, mask=mask, other=0.0)
    tl.store(out + row * channels + channel, tl.sum(total, 0), mask=live)


def loop_steps(count: int, height: int) -> int:
    """Steps of a loop over ``count`` partial results, rounded up to a power of two.

    Loop bounds are compile-time constants here; rounded, few sizes share few compiled kernels.
    """
    return power_of_two(ceil_div(count, height))


def sum_partials(partials: Tensor) -> Tensor:
    """Sum the middle dimension of [R, T, C] (float32 or float64, dense), always in one order."""
    rows, count, channels = partials.shape
    out = torch.empty((rows, channels), dtype=partials.dtype, device=partials.device)
    lanes = min(power_of_two(channels), _WIDEST_CHANNEL_BLOCK)
    height = min(_BLOCK_ELEMENTS // lanes, power_of_two(count))
    blocks = ceil_div(channels, lanes)
    _sum_partials_kernel[(rows * blocks,)](
        partials,
        out,
        count,
        channels,
        blocks,
        STEPS=loop_steps(count, height),
        ROWS=height,
        LANES=lanes,
        num_warps=4,
    )
    return out
