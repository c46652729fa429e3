"""What is minimised: cross-entropy and its long-tailed kin, Barlow Twins, both."""

from ssfnas.objectives.barlow_twins import BarlowTwins, Projector, mixed_barlow_twins
from ssfnas.objectives.classification import (
    LOSSES,
    ClassBalancedCrossEntropy,
    CosineClassifier,
    CrossEntropy,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedCrossEntropy,
    MultiLabelLoss,
    effective_number_weights,
    make_loss,
)
from ssfnas.objectives.search import OBJECTIVES, SearchObjective, make_search_objective

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "BarlowTwins",
    "ClassBalancedCrossEntropy",
    "CosineClassifier",
    "CrossEntropy",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedCrossEntropy",
    "MultiLabelLoss",
    "Projector",
    "SearchObjective",
    "effective_number_weights",
    "make_loss",
    "make_search_objective",
    "mixed_barlow_twins",
]
