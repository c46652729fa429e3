"""What the tests of the ops share: inputs, backends, and the measure of an error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from ssfnas.kernels.support import interpreting
from ssfnas.ops import backend, backends
from ssfnas.ops.selection import why_unsupported

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
)
BACKENDS = tuple(name for name, reason in backends().items() if reason is None)

_UNITS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
}


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    """Normal numbers as a function of the seed alone, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.to(device, dtype)


def forced(name: str, op: str, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """``backend(name)``; the test is skipped where it does not take these tensors."""
    reason = why_unsupported(name, op, tensors)
    if reason is not None:
        pytest.skip(reason)
    return backend(name)


def as_views(xs: Sequence[Tensor]) -> list[Tensor]:
    """The same values as slices of a larger storage that begins at an odd place."""
    views = []
    for x in xs:
        storage = torch.full((x.numel() + 3,), 7.0, dtype=x.dtype, device=x.device)
        view = storage[3:].as_strided(x.shape, x.stride(), storage_offset=3)
        views.append(view.copy_(x))
    return views


def absolute_error(found: Tensor, truth: Tensor) -> float:
    """Norm of the difference."""
    assert found.shape == truth.shape
    difference = (found.detach().cpu().double() - truth.detach().cpu()).norm().item()
    assert math.isfinite(difference)
    return difference


def assert_as_exact(
    found: Tensor,
    own: Tensor,
    truth: Tensor,
    *,
    size: Tensor | None = None,
    length: int = 1,
    what: str = "",
) -> None:
    """``found`` errs at most twice as much as the reference in its own dtype.

    On top comes, for where the reference is right by luck, one rounding of the result, and for sums
    over ``length`` terms a random walk of that many roundings in the dtype that sums are kept in.
    ``size`` is what roundings are relative to, by norm: the truth, or what sums to it.
    """
    kept = found.dtype if found.dtype == torch.float64 else torch.float32
    unit = _UNITS[found.dtype] / 2 + _UNITS[kept] * math.sqrt(length) / 2
    if found.dtype == torch.bfloat16 and interpreting() and not found.is_cuda:
        # Triton's interpreter cuts bfloat16 off where a GPU rounds to nearest.
        unit += _UNITS[found.dtype] / 2
    norm = (truth if size is None else size).detach().norm().item()
    error, allowed = absolute_error(found, truth), 2 * absolute_error(own, truth) + unit * norm
    assert error <= allowed, f"{what}: error {error:.2e}, allowed {allowed:.2e}"
