"""One process of a gloo group: a fused cell of partial channels on its rows of a batch.

``python partial_cell_of_a_rank.py RANK SIZE MEETING_FILE RESULT``
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from partial_cells import arguments, fused, gradients, make_cell, norms

from ssfnas.declarations.strategies import FAIRDARTS_OPERATIONS

IMAGES = 4
SHARES = (slice(0, 3), slice(3, 4))


def run(kind: str, rows: slice, group: dist.ProcessGroup | None) -> dict[str, list[torch.Tensor]]:
    """Output and gradients of these rows, what all processes have a part in, and buffers."""
    cell = make_cell(kind, 4, 3, FAIRDARTS_OPERATIONS, False)
    for norm in norms(cell):
        norm.group = group
    s0, s1, weights, edges = arguments(3, FAIRDARTS_OPERATIONS, (5, 6), False, IMAGES)
    s0, s1 = (x.detach()[rows].requires_grad_() for x in (s0, s1))
    out = fused(cell, s0, s1, weights, edges, group)
    d0, d1, *shared = gradients(out, [s0, s1, weights, edges, *cell.parameters()], rows, IMAGES)
    return {
        "rows": [out.detach(), d0, d1],
        "shared": shared,
        "same": [buffer.double() for buffer in cell.buffers()],
    }


def main(rank: int, size: int, meeting: str, result: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    found = {kind: run(kind, SHARES[rank], dist.group.WORLD) for kind in ("normal", "reduce")}
    torch.save(found, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
