"""What the tests of native code share: where it can run, inputs, and bounds of its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from ssfnas.ops import native

if native.unavailable() is None:
    from ssfnas import _C

    SETS = tuple(_C.instruction_sets())
else:
    SETS = ("baseline",)

needs_native = pytest.mark.skipif(
    native.unavailable() is not None, reason=str(native.unavailable())
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# The instruction sets of this CPU, and a GPU.
PLACES = [
    *SETS,
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]

SHAPES = (
    (1, 1, 1, 1),
    (7, 3),
    (1, 7),
    (5, 33, 9),
    (2, 16, 8, 8),
    (3, 17, 5, 7),
    (2, 1, 7, 33),
    (300, 5, 1, 1),
    (4, 100, 3, 3),
    (1, 2, 70, 71),
    (3, 144, 2, 2),
    (1000, 3, 2, 1),
    (2, 2, 3, 4, 5),
)
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}

_UNITS = {  # half the distance from 1 to the next number
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
_LEAST = {torch.float16: 2.0**-24}  # what subnormal numbers are multiples of
# Sums of blocks are added one after another, in at most so many steps each.
_STEPS = 100


def scalar(dtype: torch.dtype) -> torch.dtype:
    """What weights and sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def on(place: str) -> Iterator[str]:
    """Run on an instruction set or a GPU; gives the device."""
    if place == "cuda":
        reason = native.unsupported("mixed_sum", [torch.empty(1, device="cuda")])
        assert reason is None, reason
        yield "cuda"
        return
    before = _C.instruction_set()
    _C.choose_instruction_set(place)
    try:
        yield "cpu"
    finally:
        _C.choose_instruction_set(before)


class Draws:
    """Seeded tensors of one kind."""

    def __init__(self, dtype: torch.dtype, layout: str, device: str = "cpu", seed: int = 0) -> None:
        self.dtype, self.device = dtype, device
        self.format = FORMATS[layout]
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, shape: Sequence[int], mean: float = 0.5) -> Tensor:
        """Normal numbers in the layout; one that is no 4-d tensor is contiguous."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64) + mean
        x = x.to(self.device, self.dtype)
        return x.contiguous(memory_format=self.format) if x.dim() == 4 else x

    def tensors(self, count: int, shape: Sequence[int]) -> list[Tensor]:
        return [self.tensor(shape) for _ in range(count)]

    def values(self, *shape: int) -> Tensor:
        """Weights or coefficients, in the dtype of sums."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return x.to(self.device, scalar(self.dtype))


def displaced(x: Tensor, by: int = 3) -> Tensor:
    """The same tensor in a storage where it begins at a place that is no multiple of 16 bytes."""
    storage = torch.full((x.numel() + by,), 7.0, dtype=x.dtype, device=x.device)
    return storage.as_strided(x.shape, x.stride(), by).copy_(x)


def wide(x: Tensor) -> Tensor:
    return x.detach().cpu().double()


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] in the shape that broadcasts over [N, C, ...]."""
    return wide(values).view(-1, *[1] * (like.dim() - 2))


def over_places(x: Tensor) -> Tensor:
    """Sum over all axes but that of channels."""
    return x.transpose(0, 1).flatten(1).sum(1) if x.dim() > 1 else x


def assert_sum_of_terms(found: Tensor, terms: Sequence[Tensor], like: Tensor, what: str) -> None:
    """Each value is the sum of its terms but for rounding, and ``found`` is stored as ``like``.

    Adding n terms errs by at most (n + 1) u sum |terms| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 4.2), and storing the sum by u' |sum|.
    """
    assert found.dtype == like.dtype, what
    assert found.shape == like.shape, what
    assert found.stride() == like.stride(), what
    truth, size = sum(terms), sum(term.abs() for term in terms)
    unit = _UNITS[scalar(like.dtype)]
    bound = (len(terms) + 2) * unit * size + _LEAST.get(like.dtype, 0.0)
    bound = bound + 1.01 * _UNITS[like.dtype] * truth.abs()
    _assert_within(found, truth, bound, what)


def assert_total(found: Tensor, truth: Tensor, size: Tensor, dtype: torch.dtype, what: str) -> None:
    """Sums that are kept in the dtype of sums over ``dtype``; ``size`` is that of |terms|."""
    assert found.dtype == scalar(dtype), what
    _assert_within(found, truth, _STEPS * _UNITS[scalar(dtype)] * size, what)


def assert_variance(found: Tensor, truth: Tensor, size: Tensor, dtype: torch.dtype, what: str):
    """``size`` is the mean of |z|: a mean that errs by d makes a variance err by d^2."""
    unit = _STEPS * _UNITS[scalar(dtype)]
    assert found.dtype == scalar(dtype), what
    _assert_within(found, truth, unit * truth + (unit * size) ** 2, what)


def _assert_within(found: Tensor, truth: Tensor, bound: Tensor, what: str) -> None:
    assert found.shape == truth.shape, what
    error = (wide(found) - truth).abs()
    worst = (error - bound).max().item() if error.numel() else 0.0
    assert worst <= 0, f"{what}: beyond the bound by {worst:.2e}"
