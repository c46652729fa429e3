"""Barlow Twins as modules: the loss, the projector, the mixed term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssfnas.ops import barlow_twins_loss
from ssfnas.seeding import generator as seeded
from ssfnas.spaces.initialisation import initial_draws
from ssfnas.spaces.normalization import BatchNorm1d


class BarlowTwins(nn.Module):
    """The loss as a module; see :func:`ssfnas.ops.barlow_twins_loss`.

    With the default ``eps`` of 1e-5 it gives what lightly's ``BarlowTwinsLoss`` gives in one process
    (its ``lambda_param`` is ``lambd`` here, and is 0.005 by default).

    Args:
        lambd: weight of the off-diagonal terms.
        scale: factor of the whole.
        eps: added to variances.
        method: ``"auto"``, ``"primal"`` or ``"dual"``.
        group: processes whose batches are one batch.
    """

    def __init__(
        self,
        lambd: float = 0.0051,
        *,
        scale: float = 1.0,
        eps: float = 1e-5,
        method: str = "auto",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.lambd, self.scale, self.eps, self.method = lambd, scale, eps, method
        self.group = group

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """A scalar for embeddings [N, D] of two views."""
        return barlow_twins_loss(
            z1,
            z2,
            lambd=self.lambd,
            scale=self.scale,
            eps=self.eps,
            method=self.method,
            group=self.group,
        )


class Projector(nn.Sequential):
    """Linear layers with BatchNorm and ReLU between them; none after the last.

    Args:
        in_features: F of the features [N, F].
        widths: outputs of each layer; the last is the embeddings' D.
        group: processes whose batches are one batch, for BatchNorm.
        generator: all initial draws come from it.

    Source: arXiv 2103.03230, section 3.2.
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        group: dist.ProcessGroup | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        with initial_draws(generator):
            for number, width in enumerate(widths):
                layers.append(nn.Linear(in_features, width, bias=False))
                if number + 1 < len(widths):
                    norm = BatchNorm1d(width)
                    norm.group = group
                    layers += [norm, nn.ReLU()]
                in_features = width
        super().__init__(*layers)
        self.out_features = in_features


def mixed_barlow_twins(
    embed: Callable[[Tensor], Tensor],
    views: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    *,
    lambd: float,
    seed: int,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Mixed Barlow Twins' regulariser: embeddings of mixtures should be mixtures of embeddings.

    The first view is mixed with a shuffled second, m = a x1 + (1 - a) x2[p], a ~ Uniform(0, 1). With
    C(u, v) the cross-correlation of standardised embeddings, it is
    lambd / 2 * sum_v ||C(m, v) - (a C(1, v) + (1 - a) C(2[p], v))||^2 over both views v.

    Args:
        embed: images [N, ...] -> embeddings [N, D]; called once.
        views: the two views' images.
        embeddings: of both views.
        lambd: as in the loss.
        seed: of the mixture; the same on every process, whose images are mixed among themselves.
        group: processes whose batches are one batch.

    Returns:
        A scalar, to be multiplied by the weight s (4 in the source).

    Source: Bandara et al., arXiv 2312.02151, section 3.
    """
    from ssfnas.ops.collectives import gather_rows

    rank, size = (dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1)
    x1, x2 = views
    n = len(x1)
    draws = seeded(seed, "mixed_barlow_twins")
    a = float(torch.rand((), generator=draws))
    order = torch.randperm(n * size, generator=draws)
    if group is not None:
        x2 = gather_rows(x2, group)
    mine = order[rank * n : (rank + 1) * n].to(x2.device)
    mixed = embed(a * x1 + (1 - a) * x2[mine])
    z1, z2 = embeddings
    if group is not None:
        mixed, z1, z2 = (gather_rows(z, group) for z in (mixed, z1, z2))

    def standardized(z: Tensor) -> Tensor:
        z = z if z.dtype == torch.float64 else z.float()
        return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()

    with torch.autocast(mixed.device.type, enabled=False):
        m, u, v = standardized(mixed), standardized(z1), standardized(z2)
        expected = a * u + (1 - a) * v[order.to(v.device)]
        difference = (m - expected).T / len(m)
        return 0.5 * lambd * sum((difference @ z).square().sum() for z in (u, v))
