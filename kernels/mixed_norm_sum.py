"""The passes of a sum of normalized tensors: statistics, forward, two reductions, gradients.

With a_kc = w_k rstd_kc and b_c = -sum_k a_kc mean_kc the sum is out = sum_k a_kc z_k + b_c; its
gradient needs S0_c = sum g and S1_kc = sum g (z_k - mean_kc) rstd_kc, and is then
dz_k = p_kc g + q_kc z_k + r_kc. The coefficients [K, C] are the caller's (``ssfnas.ops``), who can
reduce statistics and sums over processes between the passes.

Tensors [N, C, ...] are walked in the order of memory, see :class:`ssfnas.kernels.tiles.Tile`.
"""

# mypy: allow-untyped-defs
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import Extent, accumulator, in_one_layout, memory_format, on_device
from ssfnas.kernels.reductions import TRITON_TYPE, loop_steps, sum_partials
from ssfnas.kernels.tiles import REGISTERS, WARPS, ceil_div, power_of_two, tile

# Inputs are taken in groups of so many, each behind a branch that is always taken and that the
# compiler cannot know to be: else it starts the loads of all inputs first, and registers run out.
GROUP = tl.constexpr(8)
# One program merges this many channels, this many tiles a step.
_MERGED_CHANNELS = 16
_MERGED_TILES = 128


@triton.jit
def _place(
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """This program's tile: first element, offsets [ROWS, LANES], mask, channels, live, number."""
    pid = tl.program_id(0).to(tl.int64)
    block = pid % blocks
    number = pid // blocks
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    if CHANNELS_INNER:
        first_row = number * ROWS
        channel = block * LANES + lane
        live = channel < channels
        start = first_row * channels + block * LANES
        offsets = row[:, None] * channels + lane[None, :]
        mask = (first_row + row < outer)[:, None] & live[None, :]
    else:
        first_row = (number // lane_tiles) * ROWS
        first_lane = (number % lane_tiles) * LANES
        channel = block
        live = channel < channels
        start = (first_row * channels + block) * inner + first_lane
        offsets = row[:, None] * (channels * inner) + lane[None, :]
        mask = (first_row + row < outer)[:, None] & (first_lane + lane < inner)[None, :]
    return start, offsets, mask, channel, live, number


@triton.jit
def _elements(
    number,
    outer,
    inner,
    lane_tiles,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Elements of one channel in the tile (or tiles) of that number; 0 beyond the last tile."""
    if CHANNELS_INNER:
        count = tl.minimum(tl.maximum(outer - number * ROWS, 0), ROWS)
    else:
        rows = tl.minimum(tl.maximum(outer - (number // lane_tiles) * ROWS, 0), ROWS)
        count = rows * tl.minimum(inner - (number % lane_tiles) * LANES, LANES)
    return count


@triton.jit
def _per_channel(values, channel, live, CHANNELS_INNER: tl.constexpr):
    """Values of this tile's channels, in a shape that goes with [ROWS, LANES]."""
    value = tl.load(values + channel, mask=live, other=0.0)
    if CHANNELS_INNER:
        value = value[None, :]
    return value


@triton.jit
def _tile_sum(x, CHANNELS_INNER: tl.constexpr):
    """Sum of a tile over everything but channels: [LANES], or a scalar."""
    total = tl.sum(x, 0)
    if not CHANNELS_INNER:
        total = tl.sum(total, 0)
    return total


@triton.jit
def _statistics_kernel(
    zs,
    means,
    squares,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    tiles,
    inputs,
    K: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Mean and sum of squared deviations of each tile, both [K, tiles, C]."""
    start, offsets, mask, channel, live, number = _place(
        outer, channels, inner, blocks, lane_tiles, CHANNELS_INNER, ROWS, LANES
    )
    count = _elements(number, outer, inner, lane_tiles, CHANNELS_INNER, ROWS, LANES).to(ACC)
    for first in tl.static_range(0, K, GROUP):
        if first < inputs:
            for k in tl.static_range(first, first + GROUP):
                if k < K:  # noqa: SIM102 (Triton evaluates both sides of an `and`)
                    if zs[k] is not None:
                        z = tl.load(zs[k] + start + offsets, mask=mask, other=0.0).to(ACC)
                        mean = _tile_sum(z, CHANNELS_INNER) / count
                        if CHANNELS_INNER:
                            deviation = tl.where(mask, z - mean[None, :], 0.0)
                        else:
                            deviation = tl.where(mask, z - mean, 0.0)
                        square = _tile_sum(deviation * deviation, CHANNELS_INNER)
                        place = (k * tiles + number) * channels + channel
                        tl.store(means + place, mean, mask=live)
                        tl.store(squares + place, square, mask=live)


@triton.jit
def _merge_kernel(
    means,
    squares,
    mean_out,
    var_out,
    normalized,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    tiles,
    STEPS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Merge the tiles' statistics (Chan et al.) in a fixed order: a program an input and block.

    Inputs whose bit in ``normalized`` is 0 have mean 0 and variance 1.
    """
    k = tl.program_id(0).to(tl.int64) // blocks
    channel = (tl.program_id(0).to(tl.int64) % blocks) * BLOCK + tl.arange(0, BLOCK)
    live = channel < channels
    mean = tl.zeros([BLOCK], ACC)
    var = tl.full([BLOCK], 1.0, ACC)
    if ((normalized >> k) & 1) != 0:
        total = tl.zeros([PARTS, BLOCK], ACC)
        for step in range(STEPS):
            part = step * PARTS + tl.arange(0, PARTS)
            offsets = (k * tiles + part)[:, None] * channels + channel[None, :]
            mask = (part < tiles)[:, None] & live[None, :]
            count = _elements(part, outer, inner, lane_tiles, CHANNELS_INNER, ROWS, LANES)
            total += count.to(ACC)[:, None] * tl.load(means + offsets, mask=mask, other=0.0)
        mean = tl.sum(total, 0) / outer / inner
        total = tl.zeros([PARTS, BLOCK], ACC)
        for step in range(STEPS):
            part = step * PARTS + tl.arange(0, PARTS)
            offsets = (k * tiles + part)[:, None] * channels + channel[None, :]
            mask = (part < tiles)[:, None] & live[None, :]
            count = _elements(part, outer, inner, lane_tiles, CHANNELS_INNER, ROWS, LANES)
            shift = tl.load(means + offsets, mask=mask, other=0.0) - mean[None, :]
            total += tl.load(squares + offsets, mask=mask, other=0.0)
            total += tl.where(mask, count.to(ACC)[:, None] * shift * shift, 0.0)
        var = tl.sum(total, 0) / outer / inner
    tl.store(mean_out + k * channels + channel, mean, mask=live)
    tl.store(var_out + k * channels + channel, var, mask=live)


@triton.jit
def _forward_kernel(
    zs,
    a,
    b,
    out,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    inputs,
    K: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """out = sum_k a_kc z_k + b_c."""
    start, offsets, mask, channel, live, _ = _place(
        outer, channels, inner, blocks, lane_tiles, CHANNELS_INNER, ROWS, LANES
    )
    total = tl.zeros([ROWS, LANES], ACC)
    total += _per_channel(b, channel, live, CHANNELS_INNER).to(ACC)
    for first in tl.static_range(0, K, GROUP):
        if first < inputs:
            for k in tl.static_range(first, first + GROUP):
                if k < K:
                    z = tl.load(zs[k] + start + offsets, mask=mask, other=0.0).to(ACC)
                    scale = _per_channel(a + k * channels, channel, live, CHANNELS_INNER)
                    total += scale.to(ACC) * z
    tl.store(out + start + offsets, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _deviations(z, offsets, mean, rstd, g, mask, channel, live, CHANNELS_INNER: tl.constexpr):
    """sum g (z - mean) rstd of one input over a tile, per channel."""
    wide = g.dtype
    value = tl.load(z + offsets, mask=mask, other=0.0).to(wide)
    shifted = value - _per_channel(mean, channel, live, CHANNELS_INNER).to(wide)
    scale = tl.load(rstd + channel, mask=live, other=0.0).to(wide)
    return _tile_sum(g * shifted, CHANNELS_INNER) * scale


@triton.jit
def _reduce_kernel(
    grad,
    zs,
    mean,
    rstd,
    partials,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    tiles,
    inputs,
    K: tl.constexpr,
    GROUPED: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Per tile, [1 + K, tiles, C]: sum g, and sum g (z_k - mean_kc) rstd_kc."""
    start, offsets, mask, channel, live, number = _place(
        outer, channels, inner, blocks, lane_tiles, CHANNELS_INNER, ROWS, LANES
    )
    g = tl.load(grad + start + offsets, mask=mask, other=0.0).to(ACC)
    to = partials + number * channels + channel
    tl.store(to, _tile_sum(g, CHANNELS_INNER), mask=live)
    if GROUPED:
        for first in tl.static_range(0, K, GROUP):
            if first < inputs:
                for k in tl.static_range(first, first + GROUP):
                    if k < K:
                        row = k * channels
                        total = _deviations(
                            zs[k] + start, offsets, mean + row, rstd + row, g, mask, channel, live,
                            CHANNELS_INNER,
                        )  # fmt: skip
                        tl.store(to + (k + 1) * tiles * channels, total, mask=live)
    else:
        for k in tl.static_range(K):
            row = k * channels
            total = _deviations(
                zs[k] + start,
                offsets,
                mean + row,
                rstd + row,
                g,
                mask,
                channel,
                live,
                CHANNELS_INNER,
            )
            tl.store(to + (k + 1) * tiles * channels, total, mask=live)


@triton.jit
def _apply_kernel(
    grad,
    zs,
    p,
    q,
    r,
    dzs,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    K: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """dz_k = p_kc g + q_kc z_k + r_kc where dzs[k] is given."""
    start, offsets, mask, channel, live, _ = _place(
        outer, channels, inner, blocks, lane_tiles, CHANNELS_INNER, ROWS, LANES
    )
    g = tl.load(grad + start + offsets, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(K):
        if dzs[k] is not None:
            z = tl.load(zs[k] + start + offsets, mask=mask, other=0.0).to(ACC)
            dz = _per_channel(p + k * channels, channel, live, CHANNELS_INNER).to(ACC) * g
            dz += _per_channel(q + k * channels, channel, live, CHANNELS_INNER).to(ACC) * z
            dz += _per_channel(r + k * channels, channel, live, CHANNELS_INNER).to(ACC)
            tl.store(dzs[k] + start + offsets, dz.to(dzs[k].dtype.element_ty), mask=mask)


def norm_statistics(zs: Sequence[Tensor], normalize: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every input and channel, in one read of the normalized inputs.

    Args:
        zs: K tensors [N, C, ...] of one shape and dtype.
        normalize: K flags; an input that is not normalized is not read.

    Returns:
        mean and var, [K, C] in float32 (float64 for float64); 0 and 1 for inputs left as they are,
        NaN for a channel without elements.
    """
    zs = in_one_layout(zs)
    first = zs[0]
    extent = Extent.of(first)
    dtype = accumulator(first.dtype)
    count = len(zs)
    mean = torch.empty((count, extent.channels), dtype=dtype, device=first.device)
    var = torch.empty_like(mean)
    if first.numel() == 0:
        for k, normalized in enumerate(normalize):
            mean[k] = float("nan") if normalized else 0.0
            var[k] = float("nan") if normalized else 1.0
        return mean, var
    size = tile(extent, first.dtype, reduces=True)
    means = torch.empty((count, size.tiles, extent.channels), dtype=dtype, device=first.device)
    squares = torch.empty_like(means)
    wanted = tuple(z if normalized else None for z, normalized in zip(zs, normalize, strict=True))
    flags = sum(1 << k for k, normalized in enumerate(normalize) if normalized)
    constants = {
        "CHANNELS_INNER": extent.channels_inner,
        "ROWS": size.rows,
        "LANES": size.lanes,
        "ACC": TRITON_TYPE[dtype],
    }
    block = min(power_of_two(extent.channels), _MERGED_CHANNELS)
    blocks = ceil_div(extent.channels, block)
    parts = min(power_of_two(size.tiles), _MERGED_TILES)
    with on_device(first):
        if flags:
            _statistics_kernel[(size.programs,)](
                wanted,
                means,
                squares,
                extent.outer,
                extent.channels,
                extent.inner,
                size.channel_blocks,
                size.lane_tiles,
                size.tiles,
                count,
                K=count,
                **constants,
                num_warps=WARPS,
                maxnreg=REGISTERS,
            )
        _merge_kernel[(count * blocks,)](
            means,
            squares,
            mean,
            var,
            flags,
            extent.outer,
            extent.channels,
            extent.inner,
            blocks,
            size.lane_tiles,
            size.tiles,
            STEPS=loop_steps(size.tiles, parts),
            PARTS=parts,
            BLOCK=block,
            **constants,
            num_warps=4,
        )
    return mean, var


def norm_sum_forward(zs: Sequence[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """out = sum_k a_kc z_k + b_c.

    Args:
        zs: K tensors [N, C, ...] of one shape and dtype.
        a: [K, C], float32 (float64 for float64 tensors).
        b: [C], of the dtype of ``a``.

    Returns:
        The sum in the dtype and layout of ``zs[0]``.
    """
    zs = in_one_layout(zs)
    out = torch.empty_like(zs[0])
    if out.numel() == 0:
        return out
    extent = Extent.of(out)
    size = tile(extent, out.dtype, reduces=False)
    with on_device(out):
        _forward_kernel[(size.programs,)](
            tuple(zs),
            a.contiguous(),
            b.contiguous(),
            out,
            extent.outer,
            extent.channels,
            extent.inner,
            size.channel_blocks,
            size.lane_tiles,
            len(zs),
            K=len(zs),
            CHANNELS_INNER=extent.channels_inner,
            ROWS=size.rows,
            LANES=size.lanes,
            ACC=TRITON_TYPE[accumulator(out.dtype)],
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
    return out


def norm_sum_reduce(
    grad: Tensor, zs: Sequence[Tensor], mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums that gradients of a normalized sum need.

    Args:
        grad: gradient of the sum, [N, C, ...].
        zs: the K tensors of that shape.
        mean: [K, C]; 0 for inputs that are not normalized.
        rstd: [K, C], 1 / sqrt(var + eps); 1 for inputs that are not normalized.

    Returns:
        S0 [C] = sum g and S1 [K, C] = sum g (z_k - mean_k) rstd_k, in float32 (float64).
    """
    zs = in_one_layout(zs)
    first = zs[0]
    grad = grad.contiguous(memory_format=memory_format(first))
    extent = Extent.of(first)
    dtype = accumulator(first.dtype)
    count = len(zs)
    if first.numel() == 0:
        sums = torch.zeros((count + 1, extent.channels), dtype=dtype, device=first.device)
        return sums[0], sums[1:]
    size = tile(extent, first.dtype, reduces=True)
    partials = torch.empty(
        (count + 1, size.tiles, extent.channels), dtype=dtype, device=first.device
    )
    with on_device(first):
        _reduce_kernel[(size.programs,)](
            grad,
            tuple(zs),
            mean.contiguous(),
            rstd.contiguous(),
            partials,
            extent.outer,
            extent.channels,
            extent.inner,
            size.channel_blocks,
            size.lane_tiles,
            size.tiles,
            count,
            K=count,
            # With small numbers to load the compiler keeps fewer of them in flight by itself.
            GROUPED=first.dtype.itemsize > 2,
            CHANNELS_INNER=extent.channels_inner,
            ROWS=size.rows,
            LANES=size.lanes,
            ACC=TRITON_TYPE[dtype],
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
        sums = sum_partials(partials)
    return sums[0], sums[1:]


def norm_sum_apply(
    grad: Tensor,
    zs: Sequence[Tensor],
    p: Tensor,
    q: Tensor,
    r: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """dz_k = p_kc g + q_kc z_k + r_kc.

    Args:
        grad: gradient of the sum, [N, C, ...].
        zs: the K tensors of that shape.
        p: [K, C], float32 (float64 for float64 tensors).
        q: [K, C].
        r: [K, C].
        needs: which inputs want a gradient; the others are neither read nor written.

    Returns:
        The K gradients in the layout of ``zs[0]``, None where unwanted.
    """
    zs = in_one_layout(zs)
    first = zs[0]
    grad = grad.contiguous(memory_format=memory_format(first))
    dzs = [torch.empty_like(z) if needed else None for z, needed in zip(zs, needs, strict=True)]
    if first.numel() == 0 or not any(needs):
        return dzs
    extent = Extent.of(first)
    size = tile(extent, first.dtype, reduces=False)
    with on_device(first):
        _apply_kernel[(size.programs,)](
            grad,
            tuple(zs),
            p.contiguous(),
            q.contiguous(),
            r.contiguous(),
            tuple(dzs),
            extent.outer,
            extent.channels,
            extent.inner,
            size.channel_blocks,
            size.lane_tiles,
            K=len(zs),
            CHANNELS_INNER=extent.channels_inner,
            ROWS=size.rows,
            LANES=size.lanes,
            ACC=TRITON_TYPE[accumulator(first.dtype)],
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
    return dzs
