"""The native backend: sums (:mod:`~ssfnas.ops.native`) and candidates of a source."""

from __future__ import annotations

from ssfnas.ops.native import (
    mixed_sum_backward,
    mixed_sum_forward,
    norm_statistics,
    norm_sum_apply,
    norm_sum_forward,
    norm_sum_reduce,
    unavailable,
    unsupported,
)
from ssfnas.ops.native_stencils import (
    pools_backward,
    pools_forward,
    separable_backward,
    separable_forward,
)

__all__ = [
    "mixed_sum_backward",
    "mixed_sum_forward",
    "norm_statistics",
    "norm_sum_apply",
    "norm_sum_forward",
    "norm_sum_reduce",
    "pools_backward",
    "pools_forward",
    "separable_backward",
    "separable_forward",
    "unavailable",
    "unsupported",
]
