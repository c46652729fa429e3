"""How to search: strategies, bilevel optimization, derivation, early stopping."""

from ssfnas.declarations.derivations import DERIVATIONS
from ssfnas.declarations.early_stopping import STOPPERS, EarlyStop
from ssfnas.declarations.strategies import STRATEGIES, Strategy
from ssfnas.strategies.bilevel import BilevelOptimizer
from ssfnas.strategies.derivation import derive
from ssfnas.strategies.early_stopping import StopDecision
from ssfnas.strategies.hessian import hessian_top_eigenvalue
from ssfnas.strategies.random_search import sample_genotype
from ssfnas.strategies.regularizers import zero_one_loss

__all__ = [
    "DERIVATIONS",
    "STOPPERS",
    "STRATEGIES",
    "BilevelOptimizer",
    "EarlyStop",
    "StopDecision",
    "Strategy",
    "derive",
    "hessian_top_eigenvalue",
    "sample_genotype",
    "zero_one_loss",
]
