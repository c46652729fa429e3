"""Every kernel compiles for the GPUs that we name, at the sizes of a search, without spilling."""

from __future__ import annotations

import pytest
import torch
from compile_ahead import Compiled, compile_ahead
from kernel_checks import accumulator
from torch import Tensor

from ssfnas import kernels

pytestmark = pytest.mark.compiler

ARCHITECTURES = pytest.mark.parametrize("capability", [80, 90], ids=["sm_80", "sm_90"])
# What a program may take of an SM's shared memory without asking: kernels stay below.
SHARED_LIMIT = 96 * 1024
SLOW = pytest.mark.slow
CELL = (128, 16, 32, 32)
WIDE = (128, 144, 8, 8)
DERIVED = (96, 36, 32, 32)
ODD = (96, 33, 7, 7)


def tensor(*shape: int, dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    x = torch.empty(*shape, dtype=dtype, device="meta")
    return x.to(memory_format=torch.channels_last) if channels_last else x


def check(compiled: list[Compiled], expected: set[str]) -> None:
    assert {kernel.name for kernel in compiled} == expected
    for kernel in compiled:
        assert kernel.spilled == 0, f"{kernel.name}: {kernel.spilled} bytes spilled"
        assert kernel.registers <= 255
        assert kernel.shared <= SHARED_LIMIT


def both_passes_of_barlow_twins(z: Tensor, method: str) -> None:
    loss, saved = kernels.barlow_twins_forward(z, z, 0.0051, 1e-5, method == "dual")
    kernels.barlow_twins_backward(saved, 0.0051, loss)


@ARCHITECTURES
@pytest.mark.parametrize(
    ("count", "dtype"),
    [
        (7, torch.bfloat16),
        pytest.param(1, torch.float32, marks=SLOW),
        pytest.param(14, torch.float16, marks=SLOW),
        pytest.param(35, torch.bfloat16, marks=SLOW),
        pytest.param(35, torch.float32, marks=SLOW),
        pytest.param(35, torch.float64, marks=SLOW),
    ],
    ids=str,
)
def test_mixed_sum(capability, count, dtype, monkeypatch):
    xs = [tensor(*CELL, dtype=dtype) for _ in range(count)]
    weights = tensor(count, dtype=accumulator(dtype))
    forward = compile_ahead(lambda: kernels.mixed_sum_forward(xs, weights), capability, monkeypatch)
    check(forward, {"_forward_kernel"})
    # Loads of 16 bytes show that the compiler knows how the tensors are aligned.
    assert "ld.global.v4.b32" in forward[0].ptx or "ld.global.v2.b64" in forward[0].ptx
    backward = compile_ahead(
        lambda: kernels.mixed_sum_backward(xs[0], xs, weights, [True] * count, True),
        capability,
        monkeypatch,
    )
    check(backward, {"_backward_kernel", "_sum_partials_kernel"})


@ARCHITECTURES
@pytest.mark.parametrize(
    ("shape", "count", "dtype", "channels_last"),
    [
        (CELL, 7, torch.bfloat16, True),
        (CELL, 7, torch.bfloat16, False),
        (DERIVED, 4, torch.bfloat16, True),
        pytest.param(CELL, 7, torch.float32, True, marks=SLOW),
        pytest.param(CELL, 7, torch.float64, True, marks=SLOW),
        pytest.param(CELL, 7, torch.float64, False, marks=SLOW),
        pytest.param(WIDE, 14, torch.float16, True, marks=SLOW),
        pytest.param(WIDE, 14, torch.float32, False, marks=SLOW),
        pytest.param(ODD, 5, torch.bfloat16, True, marks=SLOW),
        pytest.param(ODD, 5, torch.float32, False, marks=SLOW),
        pytest.param((128, 1, 32, 32), 1, torch.float32, False, marks=SLOW),
        pytest.param(CELL, 35, torch.bfloat16, True, marks=SLOW),
        pytest.param(WIDE, 35, torch.bfloat16, True, marks=SLOW),
        pytest.param(CELL, 35, torch.bfloat16, False, marks=SLOW),
    ],
    ids=str,
)
def test_mixed_norm_sum(capability, shape, count, dtype, channels_last, monkeypatch):
    zs = [tensor(*shape, dtype=dtype, channels_last=channels_last) for _ in range(count)]
    a = tensor(count, shape[1], dtype=accumulator(dtype))
    factors = tensor(count, shape[0], dtype=accumulator(dtype))
    flags = [k != 1 for k in range(count)]

    def call() -> None:
        kernels.norm_statistics(zs, flags)
        kernels.norm_sum_forward(zs, a, a[0])
        kernels.norm_sum_reduce(zs[0], zs, a, a)
        kernels.norm_sum_apply(zs[0], zs, a, a, a, [True] * count)
        kernels.norm_sum_forward(zs, a, a, factors)
        kernels.norm_sum_reduce(zs[0], zs, a, a, factors)

    check(
        compile_ahead(call, capability, monkeypatch),
        {
            "_statistics_kernel",
            "_merge_kernel",
            "_forward_kernel",
            "_reduce_kernel",
            "_sum_partials_kernel",
            "_apply_kernel",
        },
    )


@ARCHITECTURES
@pytest.mark.parametrize(
    ("size", "dtype", "method"),
    [
        ((256, 2048), torch.float32, "dual"),
        ((2048, 2048), torch.float32, "primal"),
        pytest.param((256, 2048), torch.bfloat16, "dual", marks=SLOW),
        pytest.param((2048, 2048), torch.bfloat16, "primal", marks=SLOW),
        pytest.param((256, 2048), torch.float64, "dual", marks=SLOW),
        pytest.param((2048, 2048), torch.float64, "primal", marks=SLOW),
        pytest.param((33, 70), torch.float16, "dual", marks=SLOW),
    ],
    ids=str,
)
def test_barlow_twins(capability, size, dtype, method, monkeypatch):
    z = tensor(*size, dtype=dtype)
    check(
        compile_ahead(lambda: both_passes_of_barlow_twins(z, method), capability, monkeypatch),
        {"_statistics_kernel", "_loss_kernel", "_destandardize_kernel"}
        | (
            {"_gram_kernel", "_combine_kernel", "_dual_gradient_kernel"}
            if method == "dual"
            else {"_correlation_kernel", "_primal_gradient_kernel"}
        ),
    )


@ARCHITECTURES
@pytest.mark.parametrize("count", [pytest.param(28, marks=SLOW), 35])
def test_nodes_of_a_search(capability, count, monkeypatch):
    """Loads of all inputs at once would take more registers than a thread may have."""
    zs = [tensor(*CELL, dtype=torch.float32, channels_last=True) for _ in range(count)]
    a = tensor(count, CELL[1], dtype=torch.float32)
    factors = tensor(count, CELL[0], dtype=torch.float32)

    def call() -> None:
        kernels.norm_sum_forward(zs, a, a[0])
        kernels.norm_sum_reduce(zs[0], zs, a, a)
        kernels.norm_sum_forward(zs, a, a, factors)
        kernels.norm_sum_reduce(zs[0], zs, a, a, factors)

    check(
        compile_ahead(call, capability, monkeypatch),
        {"_forward_kernel", "_reduce_kernel", "_sum_partials_kernel"},
    )


@ARCHITECTURES
@pytest.mark.parametrize(
    ("count", "channels", "dtype"),
    [
        (35, 16, torch.float32),
        pytest.param(20, 64, torch.float32, marks=SLOW),
        pytest.param(1, 33, torch.float64, marks=SLOW),
    ],
    ids=str,
)
def test_norm_coefficients(capability, count, channels, dtype, monkeypatch):
    table = tensor(5, 90, channels, dtype=dtype)
    rows, weights = tensor(3, count, dtype=torch.int64), tensor(98, dtype=dtype)

    def call() -> None:
        mean = tensor(count, channels, dtype=dtype)
        kernels.enter_statistics(table, 1, mean, mean, 1e-5)
        kernels.enter_statistics(table, 1, mean, mean, 1e-5, mean, mean)
        kernels.node_coefficients(table, rows[0], weights, rows[0], separate=True)
        (mean, rstd, a), b = kernels.node_coefficients(table, rows[0], weights, rows[0])
        kernels.gradient_coefficients(table[0], rows, a, mean, rstd, b, a, 131072)

    check(
        compile_ahead(call, capability, monkeypatch),
        {"_enter_kernel", "_node_kernel", "_gradient_kernel"},
    )


@ARCHITECTURES
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float64, marks=SLOW)], ids=str
)
def test_pointwise(capability, dtype, monkeypatch):
    x = tensor(*WIDE, dtype=dtype, channels_last=True)
    z = tensor(WIDE[0], 36, *WIDE[2:], dtype=dtype, channels_last=True)
    weight, row = (tensor(*size, dtype=accumulator(dtype)) for size in ((36, 144, 1, 1), (1, 36)))

    def call() -> None:
        kernels.pointwise_forward([x], weight)
        kernels.pointwise_backward([x], z, z, row, row, row, weight)
        kernels.pointwise_backward([x], z, z, row, None, None, weight)

    check(
        compile_ahead(call, capability, monkeypatch),
        {"_statistics_kernel", "_merge_kernel", "_forward_kernel"},
    )


@SLOW
@pytest.mark.parametrize(("size", "method"), [((33, 1), "primal"), ((2, 1), "dual")], ids=str)
def test_sizes_that_become_constants(size, method, monkeypatch):
    """Triton makes an argument that is 1 a constant: such sizes get kernels of their own."""
    z = tensor(*size, dtype=torch.float32)
    found = compile_ahead(lambda: both_passes_of_barlow_twins(z, method), 90, monkeypatch)
    assert {kernel.name for kernel in found} >= {"_loss_kernel"}
