"""How to search: strategies, bilevel optimization, derivation, early stopping."""

from ssfnas.declarations.derivations import DERIVATIONS
from ssfnas.declarations.early_stopping import STOPPERS, EarlyStop
from ssfnas.declarations.strategies import STRATEGIES, Strategy
from ssfnas.strategies.bilevel import BilevelOptimizer
from ssfnas.strategies.derivation import derive
from ssfnas.strategies.early_stopping import StopDecision
from ssfnas.strategies.fairdarts import zero_one_loss
from ssfnas.strategies.hessian import hessian_top_eigenvalue
from ssfnas.strategies.random_search import sample_genotype
from ssfnas.strategies.strategy import Moment, SearchStrategy, Space

__all__ = [
    "DERIVATIONS",
    "STOPPERS",
    "STRATEGIES",
    "BilevelOptimizer",
    "EarlyStop",
    "Moment",
    "SearchStrategy",
    "Space",
    "StopDecision",
    "Strategy",
    "derive",
    "hessian_top_eigenvalue",
    "sample_genotype",
    "zero_one_loss",
]
