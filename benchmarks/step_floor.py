"""The least time that a search step can take on a device: bytes to move, products to compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.report import Ceilings
from ssfnas.config import SearchConfig
from ssfnas.layers.cells import cell_edges, plan_cells

PASSES = 18 + 36
"""Tensors of an edge's size that its candidates read or write when they are fused as far as can be:
forward, and backward. A model: what every source is read for once is shared out to its edges."""


@dataclass(frozen=True)
class Floor:
    """What a step needs.

    Attributes:
        bytes_moved: by both of its passes forward and backward.
        multiply_adds: of convolutions and matrix products, without gradients that nobody wants.
    """

    bytes_moved: int
    multiply_adds: int

    def seconds(self, ceilings: Ceilings) -> tuple[float, float]:
        """Of moving, and of multiplying and adding."""
        return self.bytes_moved / ceilings.copy, 2 * self.multiply_adds / ceilings.matmul


def edge_elements(config: SearchConfig, height: int, width: int) -> int:
    """Elements of one tensor on every edge, for one image."""
    edges = len(cell_edges(config.nodes))
    total = 0
    for plan in plan_cells(config.channels, config.layers):
        if plan.reduction:
            height, width = -(-height // 2), -(-width // 2)
        total += edges * plan.channels * height * width
    return total


def bytes_moved(config: SearchConfig, size: tuple[int, int], views: int, dtype: torch.dtype) -> int:
    """By the updates of alpha and of the weights, on ``views`` views of a batch each."""
    passes = 2 * views * config.batch_size * PASSES
    return passes * edge_elements(config, *size) * dtype.itemsize
