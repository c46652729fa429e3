"""Matrix products of pixels; also for other backends."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator


def sums_of_products(left: Tensor, right: Tensor) -> Tensor:
    """sum over pixels of left_o right_i, [G, O, I] in the dtype of sums.

    Args:
        left: [G, pixels, O].
        right: [G, pixels, I], of the same dtype.
    """
    left, dtype = left.transpose(1, 2), accumulator(left.dtype)
    if left.dtype == dtype:
        return torch.bmm(left, right)
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=dtype)
    return torch.bmm(left.to(dtype), right.to(dtype))
