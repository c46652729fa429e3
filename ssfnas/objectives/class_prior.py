"""How a training has left the classes weighed against each other, and so what is left to correct.

A network that is trained on classes in shares ``q_c`` learns posteriors under those shares; the
Bayes rule for balanced error divides by them. Whatever re-samples, re-weights or adjusts logits in
training changes ``q``, so a correction after training has to be about the ``q`` of its end, and not
about the sizes of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssfnas.declarations.losses import LOSSES, REWEIGHTING
from ssfnas.objectives.reweighting import effective_number_weights

# Logits of classes whose shares differ by less would be moved by less than 0.05.
_ALIKE = 1.05


@dataclass(frozen=True)
class PriorLeft:
    """The shares of classes whose posteriors a trained network gives.

    Attributes:
        shares: float64 [C], above 0, of sum 1.
        corrected_by: what in training changed them from the class sizes, as flags.
    """

    shares: Tensor
    corrected_by: tuple[str, ...]

    @property
    def uniform(self) -> bool:
        """Whether nothing is left to correct: the largest share exceeds the least by under 5 %."""
        return float(self.shares.max() / self.shares.min()) < _ALIKE


def prior_left(
    config: Any, class_counts: Sequence[int], *, phase: str | None = None, reweighted: bool = True
) -> PriorLeft:
    """What a retraining has left of the shares ``n_c / sum n`` of its training images.

    - Sampling leaves ``n^exponent``; classifier re-training draws all classes alike.
    - Logit-adjusted cross-entropy leaves ``q^(1 - tau)`` of the shares ``q`` that are drawn.
    - Weights of classes (class-balanced, deferred re-weighting) multiply the shares.
    - The margins of LDAM are no prior: they are enforced on the training images whatever the other
      logits are. What it corrects is what its deferred re-weighting does.
    - Focal loss is taken for cross-entropy, whose order of posteriors it keeps.

    Args:
        config: a :class:`~ssfnas.config.RetrainConfig`.
        class_counts: n of each class, at least 1.
        phase: after which phase the weights were taken; absent: the last.
        reweighted: whether deferred re-weighting, where it was asked for, had begun by then.
    """
    counts = torch.tensor([float(count) for count in class_counts], dtype=torch.float64)
    if phase is None:
        phase = "crt" if config.crt_epochs > 0 else "train"
    if phase == "crt":
        return PriorLeft(_shares(torch.ones_like(counts)), (f"--crt-epochs {config.crt_epochs}",))
    loss = LOSSES.get(config.loss)
    left, named = counts**config.sampling_exponent, []
    if config.sampling_exponent != 1:
        named.append(f"--sampling-exponent {config.sampling_exponent:g}")
    if loss.corrects_prior:
        left = torch.ones_like(counts)
    elif loss.prior_left is not None:
        left = loss.prior_left(left, counts, **loss.prior_left.settings(config))
    if loss.corrects_prior or loss.prior_left is not None:
        named.append(f"--loss {config.loss}")
    begins = deferred_reweighting(config)
    if begins is not None and begins < 1 and reweighted:
        left = left * REWEIGHTING(class_counts, **REWEIGHTING.settings(config)).double()
        named.append(f"--loss {config.loss}" if config.drw is None else f"--drw {config.drw:g}")
    return PriorLeft(_shares(left), tuple(named))


def deferred_reweighting(config: Any) -> float | None:
    """The share of the training with labels after which classes are re-weighted; None: never."""
    loss = LOSSES.get(config.loss)
    asked: float | None = config.drw if loss.takes_drw else None
    return loss.drw if asked is None else asked


def after_logit_adjustment(drawn: Tensor, class_counts: Tensor, *, tau: float) -> Tensor:
    """What logit-adjusted cross-entropy leaves of the sizes of classes as they are drawn, [C]."""
    return drawn ** (1 - tau)


def after_class_balancing(drawn: Tensor, class_counts: Tensor, *, beta: float) -> Tensor:
    """What class-balanced weights leave of the sizes of classes as they are drawn, [C]."""
    return drawn * effective_number_weights(class_counts.tolist(), beta).double()


def _shares(masses: Tensor) -> Tensor:
    return masses / masses.sum()
