"""Normalized sums with a factor for each image and summand (drop-path), against their formulas."""

from __future__ import annotations

import pytest
import torch
from op_checks import BACKENDS, DTYPES, assert_as_exact, draw

from ssfnas.kernels.layout import accumulator
from ssfnas.ops import torch_sums
from ssfnas.ops.selection import primitive, why_unsupported

SHAPES = ((1, 1, 1, 1), (3, 4, 5, 7), (5, 16, 8, 8), (2, 36, 33, 9), (4, 64, 1, 1), (3, 1, 6, 2))


@pytest.fixture(params=BACKENDS)
def both(request):
    """Both functions of a backend."""
    reason = why_unsupported(request.param, "mixed_norm_sum", [torch.zeros(1, 1, 1, 1)])
    if reason is not None:
        pytest.skip(reason)
    return [primitive(request.param, f"norm_sum_{way}") for way in ("forward", "reduce")]


def arguments(shape, layout, dtype=torch.float64, count=3):
    wide, (n, c, *_) = accumulator(dtype), shape
    zs = [draw(*shape, seed=k, dtype=dtype).contiguous(memory_format=layout) for k in range(count)]
    grad = draw(*shape, seed=20, dtype=dtype).contiguous(memory_format=layout)
    a, b, mean, rstd = (draw(count, c, seed=30 + k).to(wide) for k in range(4))
    return zs, grad, a, b, mean, rstd, draw(count, n, seed=40).to(wide).clamp_min(0)


def run(both, zs, grad, a, b, mean, rstd, factors):
    out = both[0](zs, a, b, factors)
    return [out, *both[1](grad, zs, mean, rstd, factors)]


def by_formula(zs, grad, a, b, mean, rstd, factors):
    """sum_k f_kn (a_kc z_k + b_kc), and both sums over f_kn grad."""
    z, g = torch.stack(zs).double(), grad.double()
    a, b, mean, rstd, f = (values.double() for values in (a, b, mean, rstd, factors))
    out = torch.einsum("kn,kc,knchw->nchw", f, a, z)
    out += torch.einsum("kn,kc->nc", f, b)[:, :, None, None]
    shifted = (z - mean[:, None, :, None, None]) * rstd[:, None, :, None, None]
    s1 = torch.einsum("kn,nchw,knchw->kc", f, g, shifted)
    return [out, torch.einsum("kn,nchw->kc", f, g), s1]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_formula(both, shape, layout):
    given = arguments(shape, layout)
    for found, wanted in zip(run(both, *given), by_formula(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_less_exact_than_pytorch_in_that_dtype(both, dtype):
    plain = torch_sums.norm_sum_forward, torch_sums.norm_sum_reduce
    for shape in SHAPES:
        given = arguments(shape, torch.channels_last, dtype)
        truth = by_formula(*given)
        for values in zip(run(both, *given), run(plain, *given), truth, strict=True):
            assert values[0].dtype == values[1].dtype
            assert_as_exact(*values, length=shape[0] * shape[2] * shape[3], what=f"{shape}")
