"""How a program finds its tile of a tensor [outer, channels, inner], and what belongs to it.

Tensors are walked in the order of memory, see :class:`ssfnas.kernels.tiles.Tile`.
"""

# mypy: allow-untyped-defs
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import Extent
from ssfnas.kernels.reductions import TRITON_TYPE
from ssfnas.kernels.tiles import REGISTERS, WARPS, Tile

# Inputs are taken in groups of so many, each behind a branch that is always taken and that the
# compiler cannot know to be: else it starts the loads of all inputs first, and registers run out.
GROUP = tl.constexpr(8)


@triton.jit
def find_tile(
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    image_tiles,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """This program's tile: first element, offsets [ROWS, LANES], mask, channels, live, number.

    Where ``image_tiles`` is given, sizes are those of one image, which has so many tiles; the
    images lie one behind the other, and so do their tiles' numbers.
    """
    pid = tl.program_id(0).to(tl.int64)
    block = pid % blocks
    of_all = pid // blocks
    number = of_all
    if image_tiles is not None:
        number = of_all % image_tiles
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
    if image_tiles is not None:
        start += (of_all // image_tiles) * outer * channels * inner
    return start, offsets, mask, channel, live, of_all


@triton.jit
def per_channel(values, channel, live, CHANNELS_INNER: tl.constexpr):
    """Values of this tile's channels, in a shape that goes with [ROWS, LANES]."""
    value = tl.load(values + channel, mask=live, other=0.0)
    if CHANNELS_INNER:
        value = value[None, :]
    return value


def walk(extent: Extent, size: Tile, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments and options of a kernel that walks tiles, with sums in ``dtype``, by name."""
    return {
        "outer": extent.outer,
        "channels": extent.channels,
        "inner": extent.inner,
        "blocks": size.channel_blocks,
        "lane_tiles": size.lane_tiles,
        **tile_constants(extent, size, dtype),
        "num_warps": WARPS,
        "maxnreg": REGISTERS,
    }


def walk_images(factors: Tensor | None, images: int, size: Tile) -> dict[str, Any]:
    """The arguments of a kernel that takes factors [K, N] of images, by name; None for ones."""
    if factors is None:
        return {"factors": None, "images": None, "image_tiles": None}
    return {"factors": factors.contiguous(), "images": images, "image_tiles": size.tiles}


def tile_constants(extent: Extent, size: Tile, dtype: torch.dtype) -> dict[str, Any]:
    """What is known of a tile when kernels are compiled."""
    return {
        "CHANNELS_INNER": extent.channels_inner,
        "ROWS": size.rows,
        "LANES": size.lanes,
        "ACC": TRITON_TYPE[dtype],
    }
