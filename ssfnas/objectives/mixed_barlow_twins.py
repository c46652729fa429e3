"""The term that keeps Barlow Twins from over-fitting small data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.barlow_twins_loss import standardized
from ssfnas.ops.collectives import gather_rows
from ssfnas.seeding import generator


def mixed_barlow_twins(
    embed: Callable[[Tensor], Tensor],
    views: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    mixture: tuple[Tensor, Tensor],
    *,
    lambd: float,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Mixed Barlow Twins' regularizer: embeddings of mixtures should be mixtures of embeddings.

    The first view is mixed with a shuffled second, m = a x1 + (1 - a) x2[p], a ~ Uniform(0, 1) and
    p a permutation of the whole batch. With C(u, v) = U' V / N of embeddings standardized over it,
    the term is lambd * sum over both views v of ||C(m, v) - (a C(1, v) + (1 - a) C(2[p], v))||^2.

    Args:
        embed: images [n, ...] -> embeddings [n, D]; called once.
        views: the two views' images, both [n, ...].
        embeddings: of both views, each [n, D].
        mixture: a and p of :func:`draw_mixture`, on the device; the same on every process.
        lambd: as in the loss.
        group: processes whose images, equally many each, are one batch. Gradients are right once
            they are averaged over the processes.

    Returns:
        A scalar of at least float32, to be multiplied by the weight s (4 in the source) and by the
        scale of the loss.

    Source: Bandara et al., arXiv 2312.02151, section 3.
    """
    x1, x2 = views
    n = len(x1)
    rank = dist.get_rank(group) if group else 0
    a, order = mixture
    partners = x2 if group is None else gather_rows(x2, group)
    mixed = embed(a * x1 + (1 - a) * partners[order[rank * n : (rank + 1) * n]])
    z1, z2 = embeddings
    if group is not None:
        width = mixed.shape[1]
        together = torch.cat([z.to(mixed.dtype) for z in (mixed, z1, z2)], dim=1)
        mixed, z1, z2 = gather_rows(together, group, replicated=True).split(width, dim=1)
    with without_autocast(mixed):
        m, u, v = (standardized(z) for z in (mixed, z1, z2))
        difference = m - (a * u + (1 - a) * v[order])
        return lambd * _squared_norm_of_product(difference, torch.cat([u, v], dim=1)) / len(m) ** 2


def draw_mixture(seed: int, images: int) -> tuple[Tensor, Tensor]:
    """What :func:`mixed_barlow_twins` mixes, and with which share; on the CPU.

    Args:
        seed: everything is a function of it and of ``images``.
        images: of the whole batch.

    Returns:
        a, a float64 scalar, and p, int64 [images].
    """
    draws = generator(seed, "mixed_barlow_twins")
    share = torch.rand((), generator=draws, dtype=torch.float64)
    return share, torch.randperm(images, generator=draws)


def _squared_norm_of_product(a: Tensor, b: Tensor) -> Tensor:
    """||A' B||^2 for A [N, P] and B [N, Q], by the smaller of P x Q and two N x N matrices."""
    n, p, q = len(a), a.shape[1], b.shape[1]
    if n * (p + q) < p * q:
        return ((a @ a.T) * (b @ b.T)).sum()
    return (a.T @ b).square().sum()
