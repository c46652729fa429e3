"""Losses that a retraining minimizes."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component, Components


@dataclass(kw_only=True)
class EffectiveNumbers:
    """Class-balanced weights."""

    beta: float = option(0.9999, "class-balanced weights' beta", minimum=0, below=1)


REWEIGHTING = Component(
    "ssfnas.objectives.reweighting:effective_number_weights", (EffectiveNumbers,)
)
"""``(class counts, beta)`` -> the weights of the classes."""


@dataclass(kw_only=True)
class Reweighting:
    """Deferred re-weighting."""

    drw: float | None = option(
        None,
        "share of the epochs after which classes are re-weighted (DRW); absent: 0.8 with ldam, "
        "never otherwise",
        minimum=0,
        maximum=1,
        turns_on=REWEIGHTING,
        off=(None,),
    )


@dataclass(kw_only=True)
class Cosines:
    """A head of cosines."""

    scale: float = option(
        30.0, "what cosines are multiplied by, for losses that want them (ldam)", above=0
    )


@dataclass(frozen=True)
class Loss(Component):
    """A training loss; built by :func:`ssfnas.objectives.make_loss`.

    Attributes:
        corrects_prior: it makes up for the sizes of the classes wholly, so that adjusting the
            logits of the trained network would correct twice.
        prior_left: ``(sizes of classes as drawn, class counts, **own options)`` -> what it leaves
            of them, float64 [C]; None: all of it. See :mod:`ssfnas.objectives.class_prior`.
        counts_draws: the class counts that it is given are those of the images that are drawn, not
            of those there are.
        wants_cosines: its logits are cosines between features and class vectors, times ``--scale``.
        takes_drw: classes may be re-weighted while it is used (DRW).
        drw: the share of the epochs after which they are, without ``--drw``; None: never.
        for_labels: it may be named for images with several labels, where it is the binary
            cross-entropy of each.
    """

    corrects_prior: bool = False
    prior_left: Component | None = None
    counts_draws: bool = False
    wants_cosines: bool = False
    takes_drw: bool = True
    drw: float | None = None
    for_labels: bool = False

    @property
    def reads(self) -> tuple[type, ...]:
        """Its own options, and those of a head of cosines and of a re-weighting."""
        implied: tuple[type, ...] = (Cosines,) if self.wants_cosines else ()
        implied += (Reweighting,) if self.takes_drw else ()
        return (*self.options, *implied, *(REWEIGHTING.reads if self.drw is not None else ()))


LOSSES = Components("loss", Loss)


@dataclass(kw_only=True)
class LogitAdjustment:
    """Logit adjustment."""

    tau: float = option(1.0, "strength of the logit adjustment", minimum=0, single_label=True)


@dataclass(kw_only=True)
class Focus:
    """Focal loss."""

    gamma: float = option(2.0, "focal loss' exponent", minimum=0)


@dataclass(kw_only=True)
class Margins:
    """LDAM."""

    max_margin: float = option(0.5, "LDAM's largest margin, in cosines", above=0)


@dataclass(kw_only=True)
class Smoothing:
    """Label smoothing."""

    label_smoothing: float = option(0.0, "label smoothing", minimum=0, below=1, single_label=True)


_LOSSES = "ssfnas.objectives"

# Presets name plain cross-entropy as well as the default; of each label it is the binary one.
LOSSES.add("ce", Loss(f"{_LOSSES}.classification:cross_entropy", (Smoothing,), for_labels=True))
LOSSES.add(
    "logit-adjusted",
    Loss(
        f"{_LOSSES}.classification:LogitAdjustedCrossEntropy",
        (LogitAdjustment, Smoothing),
        prior_left=Component(f"{_LOSSES}.class_prior:after_logit_adjustment", (LogitAdjustment,)),
        counts_draws=True,
        takes_drw=False,
        for_labels=True,
    ),
)
LOSSES.add("focal", Loss(f"{_LOSSES}.focal:focal_loss", (Focus,)))
LOSSES.add(
    "class-balanced",
    Loss(
        f"{_LOSSES}.reweighting:ClassBalancedCrossEntropy",
        (EffectiveNumbers,),
        prior_left=Component(f"{_LOSSES}.class_prior:after_class_balancing", (EffectiveNumbers,)),
        takes_drw=False,
    ),
)
LOSSES.add(
    "ldam",
    Loss(f"{_LOSSES}.ldam:LDAMLoss", (Margins, Cosines), wants_cosines=True, drw=0.8),
)


@dataclass(kw_only=True)
class LossOptions(
    LogitAdjustment, Focus, EffectiveNumbers, Margins, Cosines, Reweighting, Smoothing
):
    """What to minimize."""

    loss: str = option(
        "logit-adjusted",
        "loss of single-label data (multi-label data train with binary cross-entropy)",
        names=LOSSES,
    )
