"""One process of a gloo group: computes the ops on its rows of a batch and saves what it got.

``python ops_of_a_rank.py RANK SIZE MEETING_FILE RESULT``
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from ssfnas.ops import (
    barlow_twins_loss,
    barlow_twins_loss_reference,
    mixed_norm_sum,
    mixed_norm_sum_reference,
)
from ssfnas.ops.collectives import all_reduce_sum, gather_rows

ROWS = {"uneven": (5, 2), "even": (4, 4), "one": (1, 1), "none here": (0, 6)}
FLAGS = [True, False, True]


def values(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batch(rows: int) -> dict[str, torch.Tensor]:
    """What the whole batch and the weights are, the same on every process."""
    return {
        "zs": torch.stack([values(rows, 3, 2, 2, seed=k) * (k + 1) + k for k in range(3)]),
        "weights": values(3, seed=10),
        "factor": values(rows, 3, 2, 2, seed=11),
        "z1": values(rows, 5, seed=12),
        "z2": values(rows, 5, seed=13),
    }


def normalized(rows, share, group, function=mixed_norm_sum, stats=False):
    """Loss that is the mean over the images of this share, and gradients of it."""
    data = batch(rows)
    zs = [z[share].clone().requires_grad_() for z in data["zs"]]
    weights = data["weights"].clone().requires_grad_()
    given = None
    if stats:
        given = (
            torch.stack([z.detach().mean((0, 2, 3)) for z in zs]),
            torch.stack([z.detach().var((0, 2, 3), correction=0) for z in zs]),
        )
    out, mean, var, count = function(
        zs, weights, normalize=FLAGS, stats=given, group=group, return_stats=True
    )
    loss = (out.sin() * data["factor"][share]).sum()
    loss.backward()
    return {
        "loss": loss.detach(),
        "rows": torch.stack([z.grad for z in zs], dim=1),
        "shared": weights.grad,
        "same": torch.cat([mean.flatten(), var.flatten(), count.reshape(1)]),
    }


def twins(rows, share, group, function=barlow_twins_loss, method="auto"):
    data = batch(rows)
    z1, z2 = (data[name][share].clone().requires_grad_() for name in ("z1", "z2"))
    mixing = torch.eye(5, dtype=torch.float64).add(0.1).requires_grad_()
    loss = function(z1 @ mixing, z2 @ mixing, lambd=0.1, scale=0.3, method=method, group=group)
    loss.backward()
    return {
        "loss": loss.detach(),
        "rows": torch.stack([z1.grad, z2.grad], dim=1),
        "shared": mixing.grad,
        "same": loss.detach().reshape(1),
    }


CASES = {
    "mixed_norm_sum": normalized,
    "mixed_norm_sum_reference": lambda *a: normalized(*a, function=mixed_norm_sum_reference),
    "mixed_norm_sum with statistics": lambda *a: normalized(*a, stats=True),
    "barlow_twins_loss primal": lambda *a: twins(*a, method="primal"),
    "barlow_twins_loss dual": lambda *a: twins(*a, method="dual"),
    "barlow_twins_loss_reference": lambda *a: twins(*a, function=barlow_twins_loss_reference),
}


def fits(case: str, rows: str) -> bool:
    """A process without rows has no statistics to hand in."""
    return not (rows == "none here" and "statistics" in case)


def collectives(rank: int, size: int, group: dist.ProcessGroup) -> dict[str, torch.Tensor]:
    x = values(2 + rank, 3, seed=rank).requires_grad_()
    total = all_reduce_sum(x.sum(0), group)
    (first,) = torch.autograd.grad(((rank + 1) * total**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    gathered = gather_rows(x, group)
    factor = values(*gathered.shape, seed=20 + rank)
    (rows,) = torch.autograd.grad((gathered.sin() * factor).sum(), x)
    same = gather_rows(x, group, replicated=True)
    (replicated,) = torch.autograd.grad(same.sin().sum(), x)
    return {
        "total": total.detach(),
        "first": first.detach(),
        "second": second,
        "gathered": gathered.detach(),
        "rows": rows,
        "replicated": replicated,
    }


def main(rank: int, size: int, meeting: str, result: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    group = dist.group.WORLD
    found: dict[str, object] = {"collectives": collectives(rank, size, group)}
    for kind, lengths in ROWS.items():
        start = sum(lengths[:rank])
        share = slice(start, start + lengths[rank])
        for case, function in CASES.items():
            if fits(case, kind):
                found[f"{case}, {kind}"] = function(sum(lengths), share, group)
    try:
        mixed_norm_sum(
            [torch.ones(rank, 2, 1, 1)], torch.ones(1), group=group
        )  # one image on one process
    except ValueError as error:
        found["error"] = str(error)
    torch.save(found, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
