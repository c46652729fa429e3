"""Triton kernels behind ``ssfnas.ops``: sums, normalized sums, a cell's entry, Barlow Twins loss.

The modules that hold kernels are imported on first use, so that this package can be imported (and
asked why it cannot run) where Triton is not installed.
"""

from __future__ import annotations

import importlib
from typing import Any

from ssfnas.kernels.support import MAX_INPUTS, unavailable, unsupported

_MODULE_OF = {
    "mixed_sum_forward": "mixed_sum",
    "mixed_sum_backward": "mixed_sum",
    "norm_statistics": "mixed_norm_sum_reductions",
    "norm_sum_forward": "mixed_norm_sum",
    "norm_sum_reduce": "mixed_norm_sum_reductions",
    "norm_sum_apply": "mixed_norm_sum",
    "enter_statistics": "norm_coefficients",
    "node_coefficients": "norm_coefficients",
    "gradient_coefficients": "norm_coefficients",
    "pointwise_forward": "pointwise",
    "pointwise_backward": "pointwise",
    "barlow_twins_forward": "barlow_twins",
    "barlow_twins_backward": "barlow_twins",
}

__all__ = ["MAX_INPUTS", "unavailable", "unsupported", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
