"""The native backend: sums (:mod:`~ssfnas.ops.native`) and candidates of a source.

Candidates are computed by :mod:`~ssfnas.ops.native_candidates` on CPUs and by
:mod:`~ssfnas.ops.cuda_candidates` on GPUs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from ssfnas.ops import cuda_candidates, native_candidates
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


def separable_forward(xs: Any, *args: Any, **options: Any) -> Any:
    """See :func:`ssfnas.ops.native_candidates.separable_forward`."""
    return _stencils(xs[0]).separable_forward(xs, *args, **options)


def separable_backward(xs: Any, *args: Any, **options: Any) -> Any:
    """See :func:`ssfnas.ops.native_candidates.separable_backward`."""
    return _stencils(xs[0]).separable_backward(xs, *args, **options)


def pools_forward(x: Tensor, stride: int) -> Any:
    """See :func:`ssfnas.ops.native_candidates.pools_forward`."""
    return _stencils(x).pools_forward(x, stride)


def pools_backward(x: Tensor, *args: Any, **options: Any) -> Any:
    """See :func:`ssfnas.ops.native_candidates.pools_backward`."""
    return _stencils(x).pools_backward(x, *args, **options)


def _stencils(x: Tensor) -> ModuleType:
    return cuda_candidates if x.is_cuda else native_candidates
