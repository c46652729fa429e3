"""The matrix unit of CPUs that have AMX, on numbers that it does not round: not a bit may differ.

Depthwise filters pass one pixel on, and everything is a small integer, so that every factor is a
bfloat16 and every sum a float32.
"""

from __future__ import annotations

import pytest
import torch
from native_checks import SETS, on

from ssfnas.ops import (
    native_candidates,
    native_pointwise,
    native_reduces,
    torch_candidates,
    torch_pointwise,
    torch_reduces,
)

pytestmark = pytest.mark.skipif("amx" not in SETS, reason="this CPU has no AMX, or may not use it")

# Pixels fewer than the unit's 16, a multiple of them, and others; vectors of channels from 1 to 6.
SHAPES = ((1, 32, 1, 1), (2, 17, 1, 3), (3, 33, 2, 2), (2, 40, 5, 7), (1, 64, 8, 8), (2, 96, 4, 9),
          (1, 20, 33, 3))  # fmt: skip


def integers(shape, most, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=draws).double()


def halves(x):
    return x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def passing_filters(channels, count):
    """Of 3x3, each with one 1, in another place."""
    filters = []
    for place in range(count):
        one = torch.zeros(channels, 1, 9)
        one[:, :, place % 9] = 1
        filters.append(one.view(channels, 1, 3, 3))
    return filters


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_separable_units_are_exact(shape, stride):
    groups, (n, c, h, w) = 2, shape
    x = integers(shape, 3, 1)
    depthwise = passing_filters(c, groups)
    pointwise = [integers((c, c, 1, 1), 1, 5 + g).float() for g in range(groups)]
    output = (n, c, -(-h // stride), -(-w // stride))
    grads = [integers(output, 2, 9 + g) for g in range(groups)]
    p = torch.ones(groups, c)
    options = {"stride": stride, "dilations": [1] * groups}

    def run(module, cast, factors):
        filters = [[f.to(factors) for f in kind] for kind in (depthwise, pointwise)]
        zs, mean, _ = module.separable_forward([cast(x)], *filters, **options)
        dxs, _, df, dw = module.separable_backward(
            [cast(x)], [], [cast(g) for g in grads], p.to(factors), None, None, *filters, **options
        )
        return [*zs, mean, *dxs, *df, *dw]

    with on("amx"):
        found = run(native_candidates, halves, torch.float32)
    truth = run(torch_candidates, lambda value: value, torch.float64)
    for value, wanted in zip(found, truth, strict=True):
        # Results beyond 256 are rounded when they are stored.
        if value.dtype == torch.bfloat16:
            assert torch.equal(value, wanted.to(torch.bfloat16))
        else:
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tensors", "outputs"), [(1, 17), (4, 16), (2, 70), (3, 33)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pointwise_is_exact(shape, tensors, outputs):
    n, c, h, w = shape
    xs = [integers(shape, 2, seed) for seed in range(tensors)]
    weight = integers((outputs, tensors * c, 1, 1), 1, 20)
    grad = integers((n, outputs, h, w), 2, 21)
    p = torch.ones(1, outputs)

    def run(module, cast, factors):
        inputs = [cast(x) for x in xs]
        z, mean, _ = module.pointwise_forward(inputs, weight.to(factors))
        dxs, dw = module.pointwise_backward(
            inputs, z, cast(grad), p.to(factors), None, None, weight.to(factors)
        )
        return [z, mean, *dxs, dw]

    with on("amx"):
        found = run(native_pointwise, halves, torch.float32)
    truth = run(torch_pointwise, lambda value: value, torch.float64)
    for value, wanted in zip(found, truth, strict=True):
        if value.dtype == torch.bfloat16:
            assert torch.equal(value, wanted.to(torch.bfloat16))
        else:
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tensors", "outputs"), [(1, (17, 16)), (4, (16, 16)), (2, (40, 40))])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reduces_are_exact(shape, tensors, outputs):
    (n, c, h, w), edges = shape, 2
    xs = [integers((n, c, 2 * h, 2 * w - 1), 2, seed) for seed in range(tensors)]
    even, odd = (
        [integers((o, tensors * c, 1, 1), 1, seed + g) for g in range(edges)]
        for seed, o in zip((20, 30), outputs, strict=True)
    )
    grads = [integers((n, sum(outputs), h, w), 2, 40 + g) for g in range(edges)]
    p = torch.ones(edges, sum(outputs))

    def run(module, cast, dtype):
        inputs, rows = [cast(x) for x in xs], p.to(dtype)
        filters = [[f.to(dtype) for f in kind] for kind in (even, odd)]
        zs, mean, _ = module.reduces_forward(inputs, *filters)
        dxs, of_even, of_odd = module.reduces_backward(
            inputs, [], [cast(grad) for grad in grads], rows, None, None, *filters
        )
        return [*zs, mean, *dxs, *of_even, *of_odd]

    with on("amx"):
        found = run(native_reduces, halves, torch.float32)
    truth = run(torch_reduces, lambda value: value, torch.float64)
    for value, wanted in zip(found, truth, strict=True):
        if value.dtype == torch.bfloat16:
            assert torch.equal(value, wanted.to(torch.bfloat16))
        else:
            torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-6)


def test_nan_and_infinity_pass_the_unit():
    x = halves(integers((1, 32, 4, 4), 3, 1))
    x[0, 5, 1, 1], x[0, 7, 2, 2] = float("nan"), float("inf")
    with on("amx"):
        z, _, _ = native_pointwise.pointwise_forward([x], torch.ones(32, 32, 1, 1))
    assert z[0, :, 1, 1].isnan().all()
    assert z[0, :, 2, 2].isinf().all()
    assert int(z.isfinite().logical_not().sum()) == 2 * 32
