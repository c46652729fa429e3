"""The passes of a sum of normalized tensors that sum over places: for statistics and gradients.

Tiles are summed by one program each, and then in a fixed order; moments by the formula of Chan,
Golub and LeVeque (1983). What the results are for: :mod:`ssfnas.kernels.mixed_norm_sum`.
"""

# mypy: allow-untyped-defs
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import Extent, accumulator, in_one_layout, memory_format, on_device
from ssfnas.kernels.reductions import loop_steps, sum_partials
from ssfnas.kernels.tiles import ceil_div, power_of_two, tile
from ssfnas.kernels.walks import (
    GROUP,
    find_tile,
    per_channel,
    tile_constants,
    walk,
    walk_images,
)

# One program merges this many channels, this many tiles a step.
_MERGED_CHANNELS = 16
_MERGED_TILES = 128


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
    start, offsets, mask, channel, live, number = find_tile(
        outer, channels, inner, blocks, lane_tiles, None, CHANNELS_INNER, ROWS, LANES
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
def _deviations(z, offsets, mean, rstd, g, mask, channel, live, CHANNELS_INNER: tl.constexpr):
    """sum g (z - mean) rstd of one input over a tile, per channel."""
    wide = g.dtype
    value = tl.load(z + offsets, mask=mask, other=0.0).to(wide)
    shifted = value - per_channel(mean, channel, live, CHANNELS_INNER).to(wide)
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
    factors,
    images,
    image_tiles,
    K: tl.constexpr,
    FIRSTS: tl.constexpr,
    GROUPED: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Per tile, [FIRSTS + K, tiles, C]: sum g, and sum g (z_k - mean_kc) rstd_kc.

    With factors the sums of f_kn g, for every k, are the first, and these in place of g.
    """
    start, offsets, mask, channel, live, number = find_tile(
        outer, channels, inner, blocks, lane_tiles, image_tiles, CHANNELS_INNER, ROWS, LANES
    )
    g = tl.load(grad + start + offsets, mask=mask, other=0.0).to(ACC)
    to = partials + number * channels + channel
    sum_of_g = _tile_sum(g, CHANNELS_INNER)
    if factors is None:
        tl.store(to, sum_of_g, mask=live)
    else:
        factors += number // image_tiles
    for first in tl.static_range(0, K, GROUP if GROUPED else K):
        if first < (inputs if GROUPED else K):
            for k in tl.static_range(first, first + (GROUP if GROUPED else K)):
                if k < K:
                    row = k * channels
                    total = _deviations(
                        zs[k] + start, offsets, mean + row, rstd + row, g, mask, channel, live,
                        CHANNELS_INNER,
                    )  # fmt: skip
                    if factors is not None:
                        factor = tl.load(factors + k * images).to(ACC)
                        tl.store(to + k * tiles * channels, factor * sum_of_g, mask=live)
                        total *= factor
                    tl.store(to + (k + FIRSTS) * tiles * channels, total, mask=live)


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
    block = min(power_of_two(extent.channels), _MERGED_CHANNELS)
    blocks = ceil_div(extent.channels, block)
    parts = min(power_of_two(size.tiles), _MERGED_TILES)
    with on_device(first):
        if flags:
            _statistics_kernel[(size.programs,)](
                wanted,
                means,
                squares,
                tiles=size.tiles,
                inputs=count,
                K=count,
                **walk(extent, size, dtype),
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
            **tile_constants(extent, size, dtype),
            num_warps=4,
        )
    return mean, var


def norm_sum_reduce(
    grad: Tensor,
    zs: Sequence[Tensor],
    mean: Tensor,
    rstd: Tensor,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sums that gradients of a normalized sum need.

    Args:
        grad: gradient of the sum, [N, C, ...].
        zs: the K tensors of that shape.
        mean: [K, C]; 0 for inputs that are not normalized.
        rstd: [K, C], 1 / sqrt(var + eps); 1 for inputs that are not normalized.
        factors: of each input's images, [K, N], or None for ones.

    Returns:
        S0 [C] = sum g and S1 [K, C] = sum g (z_k - mean_k) rstd_k, in float32 (float64). With
        factors S0 [K, C], and f_kn g in place of g.
    """
    zs = in_one_layout(zs)
    first = zs[0]
    grad = grad.contiguous(memory_format=memory_format(first))
    # A tile has a factor, so none has parts of two images.
    images = 1 if factors is None else first.shape[0]
    firsts = 1 if factors is None else len(zs)  # rows of S0
    dtype = accumulator(first.dtype)
    if first.numel() == 0:
        sums = torch.zeros((firsts + len(zs), first.shape[1]), dtype=dtype, device=first.device)
    else:
        extent = Extent.of(first).of_one(images)
        size = tile(extent, first.dtype, reduces=True)
        tiles = size.tiles * images
        partials = torch.empty(
            (firsts + len(zs), tiles, extent.channels), dtype=dtype, device=first.device
        )
        with on_device(first):
            _reduce_kernel[(size.programs * images,)](
                grad,
                tuple(zs),
                mean.contiguous(),
                rstd.contiguous(),
                partials,
                tiles=tiles,
                inputs=len(zs),
                **walk_images(factors, images, size),
                K=len(zs),
                FIRSTS=firsts,
                # With small numbers to load the compiler keeps fewer of them in flight by itself,
                # but for many factors.
                GROUPED=first.dtype.itemsize > 2 or (factors is not None and len(zs) > GROUP.value),
                **walk(extent, size, dtype),
            )
            sums = sum_partials(partials)
    return sums[0] if factors is None else sums[:firsts], sums[firsts:]
