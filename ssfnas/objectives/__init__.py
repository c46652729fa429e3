"""What is minimized: cross-entropy and its long-tailed kin, Barlow Twins, both."""

from ssfnas.declarations.losses import LOSSES
from ssfnas.declarations.objectives import OBJECTIVES
from ssfnas.objectives.barlow_twins import BarlowTwins
from ssfnas.objectives.classification import (
    ClassificationLoss,
    CrossEntropy,
    LogitAdjustedCrossEntropy,
    make_loss,
)
from ssfnas.objectives.focal import FocalLoss
from ssfnas.objectives.ldam import CosineClassifier, LDAMLoss
from ssfnas.objectives.mixed_barlow_twins import draw_mixture, mixed_barlow_twins
from ssfnas.objectives.multi_label import MultiLabelLoss
from ssfnas.objectives.projector import Projector
from ssfnas.objectives.reweighting import ClassBalancedCrossEntropy, effective_number_weights
from ssfnas.objectives.search import SearchObjective, make_search_objective

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "BarlowTwins",
    "ClassBalancedCrossEntropy",
    "ClassificationLoss",
    "CosineClassifier",
    "CrossEntropy",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedCrossEntropy",
    "MultiLabelLoss",
    "Projector",
    "SearchObjective",
    "draw_mixture",
    "effective_number_weights",
    "make_loss",
    "make_search_objective",
    "mixed_barlow_twins",
]
