"""What can be searched: operations, cells, supernets, genotypes, derived networks."""

from ssfnas.spaces.counting import count_multiply_adds, count_parameters
from ssfnas.spaces.derived import DerivedNetwork
from ssfnas.spaces.genotype import Genotype
from ssfnas.spaces.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    frozen_statistics,
    synchronize_batchnorm,
)
from ssfnas.spaces.operations import OPERATIONS, register_operation
from ssfnas.spaces.published import PUBLISHED
from ssfnas.spaces.reference import SUPERNETS, ReferenceSupernet
from ssfnas.spaces.relaxations import RELAXATIONS

__all__ = [
    "OPERATIONS",
    "PUBLISHED",
    "RELAXATIONS",
    "SUPERNETS",
    "BatchNorm1d",
    "BatchNorm2d",
    "DerivedNetwork",
    "Genotype",
    "ReferenceSupernet",
    "count_multiply_adds",
    "count_parameters",
    "frozen_statistics",
    "register_operation",
    "synchronize_batchnorm",
]
