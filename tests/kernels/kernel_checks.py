"""Inputs for the kernels' tests, and how close a kernel has to come to the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def normal(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: str,
    rng: torch.Generator,
    *,
    channels_last: bool = False,
    mean: float = 0.0,
) -> Tensor:
    """Normal numbers; drawn in float64 and rounded to ``dtype``."""
    x = (torch.randn(*shape, generator=rng, dtype=torch.float64) + mean).to(dtype).to(device)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float64 on the CPU, where the truth is computed."""
    return [x.detach().double().cpu() for x in tensors]


def error(found: Tensor, truth: Tensor) -> float:
    """Distance from the truth, relative to it, by norms."""
    distance = (found.detach().double().cpu() - truth).norm()
    return float(distance / truth.norm().clamp_min(1e-30))


def assert_close(found: Tensor, plain: Tensor, truth: Tensor, length: int = 1) -> None:
    """The error is at most twice that of plain PyTorch in the same dtype, plus a tiny constant.

    The constant grows with the root of the length of the sums: in float64 the truth has such an
    error itself.

    Args:
        found: what the kernel computed.
        plain: the definition, computed by PyTorch in the kernel's dtype.
        truth: the definition in float64.
        length: how many terms the longest sum has.
    """
    assert found.shape == truth.shape
    allowed = 2 * error(plain, truth) + (
        4 * math.sqrt(length) * torch.finfo(accumulator(found.dtype)).eps
    )
    if found.dtype == torch.bfloat16 and not found.is_cuda:
        # The interpreter cuts bfloat16 off where a GPU rounds to nearest.
        allowed += torch.finfo(torch.bfloat16).eps / 2
    assert error(found, truth) <= allowed


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over numbers of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32
