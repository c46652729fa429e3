"""FairDARTS: each operation has a weight of its own, which the zero-one loss decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.strategies.strategy import SearchStrategy

FORMS = ("l1", "l2")


class FairDarts(SearchStrategy):
    """Sigmoid weights, and w01 times the zero-one loss (arXiv 1911.12126)."""

    relaxation = "sigmoid"

    def penalty(self) -> dict[str, Tensor]:
        """The zero-one loss of all open operations; ``zero_one`` is without the factor."""
        value = zero_one_loss(self.alphas(), self.config.zero_one)
        return {"loss": self.config.w01 * value, "zero_one": value}


def zero_one_loss(alphas: Sequence[Tensor], form: str = "l2") -> Tensor:
    """FairDARTS' zero-one loss, which pushes every sigmoid weight toward 0 or 1.

    With z = sigmoid of all alphas, N of them: ``l2``: -sum (z - 0.5)^2 / N; ``l1``:
    -sum |z - 0.5| / N. Both are 0 where every weight is undecided; the lower, the more decided.

    Args:
        alphas: tensors of any shape.
        form: ``"l1"`` or ``"l2"``.

    Returns:
        A scalar, -1/2 .. 0 (l1) or -1/4 .. 0 (l2).

    Source: Chu et al., arXiv 1911.12126, section 3.3.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: it is one of {', '.join(FORMS)}")
    distance = torch.cat([alpha.reshape(-1) for alpha in alphas]).sigmoid() - 0.5
    return -(distance.square() if form == "l2" else distance.abs()).mean()
