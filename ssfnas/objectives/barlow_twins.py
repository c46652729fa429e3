"""Barlow Twins as a module."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from ssfnas.errors import RequestError
from ssfnas.ops import barlow_twins_loss
from ssfnas.ops.collectives import Grouped


class BarlowTwins(Grouped, nn.Module):
    """The loss as a module; see :func:`ssfnas.ops.barlow_twins_loss`.

    In one process it stands in for lightly's ``BarlowTwinsLoss``: the same value and gradient from
    the same two embeddings, faster. That one's ``lambda_param`` is ``lambd`` here (either name is
    taken); its default is 0.005, and that of the paper's code, as here, 0.0051. In place of its
    ``gather_distributed`` there is ``group``, which standardizes over the whole batch as well.

    Args:
        lambd: weight of the off-diagonal terms.
        scale: factor of the whole.
        eps: added to variances.
        method: ``"auto"``, ``"primal"`` or ``"dual"``.
        group: processes whose batches are one batch. Copies of the module share it.
        lambda_param: another name of ``lambd``.

    Raises:
        RequestError: both names of the weight were given.
    """

    def __init__(
        self,
        lambd: float | None = None,
        *,
        scale: float = 1.0,
        eps: float = 1e-5,
        method: str = "auto",
        group: dist.ProcessGroup | None = None,
        lambda_param: float | None = None,
    ) -> None:
        super().__init__()
        if lambd is not None and lambda_param is not None:
            raise RequestError("BarlowTwins: lambd and lambda_param are one thing: give either")
        given = lambd if lambd is not None else lambda_param
        self.lambd = 0.0051 if given is None else given
        self.scale, self.eps, self.method = scale, eps, method
        self.group = group

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"lambd={self.lambd}, scale={self.scale}, eps={self.eps}, method='{self.method}'"

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
