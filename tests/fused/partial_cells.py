"""Cells of partial channels, in their textbook and in their fused form, and what both find."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.fused.cell_statistics import Call
from ssfnas.fused.fused_network import FusedNetwork
from ssfnas.layers.cells import CellPlan, SearchCell
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.seeding import seeded_draws
from ssfnas.spaces import Supernet

CHANNELS = 8


def drawn(*shape: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draws, dtype=torch.float64)


def make_cell(kind: str, share: int, nodes: int, names: Sequence[str], fine: bool) -> SearchCell:
    """A cell behind a reduction (``fine``) or not, with seeded weights."""
    with seeded_draws(3):
        plan = CellPlan(kind, CHANNELS, fine)
        return SearchCell(plan, (5, 6), nodes, tuple(names), share).double()


def arguments(nodes: int, names: Sequence[str], size: tuple[int, int], fine: bool, images: int = 3):
    """Both inputs, the table of weights, and the factors of the edges; all want gradients."""
    edges = nodes * (nodes + 3) // 2
    before = (2 * size[0] - 1, 2 * size[1]) if fine else size
    given = (
        drawn(images, 5, *before, seed=1),
        drawn(images, 6, *size, seed=2),
        drawn(edges, len(names), seed=3),
        drawn(edges, seed=4),
    )
    return [x.requires_grad_() for x in given]


def fused(cell: SearchCell, s0, s1, weights, edges, group: dist.ProcessGroup | None = None):
    """The output of the fused form."""
    function = FusedNetwork(torch.nn.ModuleList([cell]), Supernet._fusible).fused(0)
    assert function is not None
    call = Call(cell.training, 1e-5, group)
    nodes, _ = function(call, [s0], [s1], weights, None, edges)
    network = FusedNetwork(torch.nn.ModuleList(), lambda _: None).start()
    if cell.training:
        network._updates[0.1] = call.updates
    network.finish()
    return torch.cat(nodes, dim=1)


def gradients(
    out: Tensor, wanted: Sequence[Tensor], rows: slice = slice(None), images: int = 3
) -> list[Tensor]:
    """Of a scalar that every value has another part in, for rows of so many images.

    Zeros where there is none.
    """
    cotangent = drawn(images, *out.shape[1:], seed=7)[rows]
    wanted = [x for x in wanted if x.requires_grad]
    found = torch.autograd.grad((out * cotangent).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]


def norms(cell: SearchCell) -> list[BatchNorm2d]:
    return [module for module in cell.modules() if isinstance(module, BatchNorm2d)]
