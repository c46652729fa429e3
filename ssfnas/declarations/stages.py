"""What comes before and after the training with labels."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.declarations.losses import Smoothing
from ssfnas.declarations.objectives import TwinsOptions
from ssfnas.options import option
from ssfnas.registry import Component


@dataclass(kw_only=True)
class Pretraining:
    """Pre-training by Barlow Twins."""

    pretrain_batch_size: int = option(256, "images a step of the pre-training", minimum=2)
    pretrain_lr: float = option(0.3, "first learning rate of the pre-training (LARS)", above=0)
    pretrain_weight_decay: float = option(1e-4, "decay of the pre-training", minimum=0)
    bt_mixup: float = option(
        0.0, "weight s of Mixed Barlow Twins' term (4 in its paper); 0: none", minimum=0
    )
    finetune: str = option(
        "all", "what is trained after the pre-training", choices=("all", "classifier")
    )


PRETRAINING = Component("ssfnas.training.phases:PretrainPhase", (Pretraining, TwinsOptions))


@dataclass(kw_only=True)
class ClassifierRetraining:
    """Classifier re-training."""

    crt_lr: list[float] = option(
        [],
        "first learning rate of the classifier re-training; of several the validation part "
        "chooses; absent: --lr",
        above=0,
    )


CLASSIFIER_RETRAINING = Component(
    "ssfnas.training.phases:LabelPhase", (ClassifierRetraining, Smoothing)
)


@dataclass(kw_only=True)
class StageOptions(Pretraining, TwinsOptions, ClassifierRetraining):
    """Before and after the training with labels."""

    pretrain_epochs: int = option(
        0,
        "epochs of Barlow Twins on the same images before the labels are used",
        minimum=0,
        turns_on=PRETRAINING,
    )
    crt_epochs: int = option(
        0,
        "epochs of classifier re-training on the frozen backbone at the end",
        minimum=0,
        turns_on=CLASSIFIER_RETRAINING,
        single_label=True,
    )
