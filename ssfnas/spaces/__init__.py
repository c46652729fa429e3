"""What can be searched: operations, cells, supernets, genotypes, and derived networks."""

from __future__ import annotations

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.layers.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    frozen_statistics,
    synchronize_batchnorm,
)
from ssfnas.layers.operations import OPERATIONS, register_operation
from ssfnas.registry import Registry
from ssfnas.spaces.counting import count_multiply_adds, count_parameters
from ssfnas.spaces.derived import DerivedNetwork
from ssfnas.spaces.genotype import PUBLISHED, Genotype
from ssfnas.spaces.mixing import Mix, Mixing
from ssfnas.spaces.reference import ReferenceSupernet
from ssfnas.spaces.reference_derived import ReferenceDerivedNetwork
from ssfnas.spaces.relaxations import RELAXATIONS
from ssfnas.spaces.supernet import Supernet

SUPERNETS: Registry[type[ReferenceSupernet]] = Registry("supernet")
SUPERNETS.add("fast", Supernet)
SUPERNETS.add("reference", ReferenceSupernet)
NETWORKS: dict[str, type[ReferenceDerivedNetwork]] = {
    "fast": DerivedNetwork,
    "reference": ReferenceDerivedNetwork,
}

__all__ = [
    "DARTS_OPERATIONS",
    "FAIRDARTS_OPERATIONS",
    "NETWORKS",
    "OPERATIONS",
    "PUBLISHED",
    "RELAXATIONS",
    "SUPERNETS",
    "BatchNorm1d",
    "BatchNorm2d",
    "DerivedNetwork",
    "Genotype",
    "Mix",
    "Mixing",
    "ReferenceDerivedNetwork",
    "ReferenceSupernet",
    "Supernet",
    "count_multiply_adds",
    "count_parameters",
    "frozen_statistics",
    "register_operation",
    "synchronize_batchnorm",
]
