"""The hot path as functions: for each a reference, and the fastest form that can run here."""

from ssfnas.ops.barlow_twins_loss import barlow_twins_loss, barlow_twins_loss_reference
from ssfnas.ops.candidate_operations import candidate_operations, candidate_operations_reference
from ssfnas.ops.mixed_norm_sum import mixed_norm_sum, mixed_norm_sum_reference
from ssfnas.ops.mixed_sum import mixed_sum, mixed_sum_reference
from ssfnas.ops.selection import BackendError, backend, backends

__all__ = [
    "BackendError",
    "backend",
    "backends",
    "barlow_twins_loss",
    "barlow_twins_loss_reference",
    "candidate_operations",
    "candidate_operations_reference",
    "mixed_norm_sum",
    "mixed_norm_sum_reference",
    "mixed_sum",
    "mixed_sum_reference",
]
