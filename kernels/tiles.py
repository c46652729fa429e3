"""Sizes of the tiles that one program works on, by kind of kernel, dtype, and shape.

A fixed table instead of the autotuner, which does not see the dtypes inside tuples of tensors, and
would make the order of a reduction, and so its last bits, depend on timings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssfnas.kernels.layout import Extent

# Elements a program: with 8 warps, two 16-byte loads a thread and input, and the unrolled loop over
# the inputs keeps the loads of several inputs in flight.
_ELEMENTS = {2: 4096, 4: 2048, 8: 1024}
WARPS = 8
REGISTERS = 128
"""Limit a thread: without one, ptxas spills a few bytes to reach an occupancy of its own choice."""
_WIDEST_CHANNEL_BLOCK = 64
_NARROWEST_CHANNEL_BLOCK = 16
_NARROWEST_PLANE_BLOCK = 64
_WASTE = 1.125


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n`` (and at least 1)."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def flat_block(dtype: torch.dtype, inputs: int) -> int:
    """Elements a program of a kernel that takes its tensors as rows of numbers."""
    # Few inputs, few loads in flight for an element: smaller tiles, more programs.
    return _ELEMENTS[dtype.itemsize] // (2 if inputs <= 4 else 1)


@dataclass(frozen=True)
class Tile:
    """A tile [rows, lanes] of a tensor [outer, channels, inner].

    Where channels are the fastest dimension, rows run over ``outer`` and lanes over channels; else
    a tile has one channel, rows run over ``outer`` and lanes over ``inner``.
    """

    rows: int
    lanes: int
    row_tiles: int
    lane_tiles: int
    channel_blocks: int

    @property
    def tiles(self) -> int:
        """Tiles of one channel block: the length of a reduction's second stage."""
        return self.row_tiles * self.lane_tiles

    @property
    def programs(self) -> int:
        """Programs to launch: tiles of all channel blocks."""
        return self.tiles * self.channel_blocks


def _lanes(length: int, widest: int, narrowest: int) -> int:
    """The widest power of two that wastes little of the last block."""
    lanes = min(power_of_two(length), widest)
    while lanes > narrowest and ceil_div(length, lanes) * lanes > _WASTE * length:
        lanes //= 2
    return lanes


def tile(extent: Extent, dtype: torch.dtype, *, reduces: bool) -> Tile:
    """The tile for a tensor of that extent (which is not empty)."""
    elements = _ELEMENTS[dtype.itemsize]
    if extent.channels_inner:
        # A reduction over rows leaves one number a lane: half the lanes, twice the rows.
        widest = _WIDEST_CHANNEL_BLOCK // 2 if reduces else _WIDEST_CHANNEL_BLOCK
        lanes = _lanes(extent.channels, widest, _NARROWEST_CHANNEL_BLOCK)
        rows = min(elements // lanes, power_of_two(extent.outer))
        blocks = ceil_div(extent.channels, lanes)
        return Tile(rows, lanes, ceil_div(extent.outer, rows), 1, blocks)
    lanes = _lanes(extent.inner, elements, _NARROWEST_PLANE_BLOCK)
    rows = min(elements // lanes, power_of_two(extent.outer))
    return Tile(
        rows,
        lanes,
        ceil_div(extent.outer, rows),
        ceil_div(extent.inner, lanes),
        extent.channels,
    )
