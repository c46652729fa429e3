"""Learning rates as closed forms of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer


def cosine(step: int, total: int, first: float, last: float, warmup: int = 0) -> float:
    """Learning rate before update ``step`` of ``total``: linear warm-up, then half a cosine.

    Args:
        step: updates done so far, 0 .. total - 1.
        total: updates in all.
        first: rate at the top of the cosine.
        last: rate that the cosine approaches after the last update.
        warmup: updates over which the rate grows linearly to ``first``.

    Source: SGDR without restarts (Loshchilov and Hutter, arXiv 1608.03983).
    """
    if step < warmup:
        return first * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group of ``optimizer`` the same learning rate.

    A rate that is a tensor is changed in place: a captured graph reads it where it is.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
