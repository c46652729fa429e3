"""Factorized reduces as matrix products, against the modules that they stand for."""

from __future__ import annotations

import pytest
import torch

from ssfnas.layers.operations import FactorizedReduce
from ssfnas.ops.factorized_reduces import reduces_backward, reduces_forward

SHAPES = [(2, 4, 6, 8), (3, 5, 7, 4), (1, 2, 1, 1), (2, 6, 5, 9)]


def case(shape, channels, edges=3):
    generator = torch.Generator().manual_seed(3)
    modules = [FactorizedReduce(shape[1], channels, affine=False).double() for _ in range(edges)]
    with torch.no_grad():
        for module in modules:
            # What comes behind is not what is tested.
            module.norm = torch.nn.Identity()
            for parameter in module.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                )
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return modules, x.contiguous(memory_format=torch.channels_last), generator


def parts_of(x, count):
    return [
        part.contiguous(memory_format=torch.channels_last) for part in x.tensor_split(count, dim=1)
    ]


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_the_modules(shape, channels):
    count = 2 if shape[1] % 2 == 0 else 1  # tensors side by side
    modules, x, generator = case(shape, channels)
    even, odd = ([getattr(module, name).weight for module in modules] for name in ("even", "odd"))
    leaf = x.clone().requires_grad_()
    wanted = [module(leaf) for module in modules]
    with torch.no_grad():
        found = reduces_forward(parts_of(x, count), even, odd)
    for z, truth in zip(found, wanted, strict=True):
        assert z.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(z, truth, rtol=1e-12, atol=1e-12)
    dzs = [torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in found]
    truth = torch.autograd.grad(wanted, [leaf, *even, *odd], dzs)
    before = torch.randn(shape, generator=generator, dtype=torch.float64)
    for into in (None, parts_of(before.clone(), count)):
        with torch.no_grad():
            dxs, of_even, of_odd = reduces_backward(parts_of(x, count), dzs, even, odd, into=into)
        assert into is None or dxs is into
        dx = torch.cat(dxs, dim=1)
        dx = dx if into is None else dx - before
        for value, expected in zip([dx, *of_even, *of_odd], truth, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


def test_filters_that_want_no_gradient_get_none():
    modules, x, _ = case((2, 4, 6, 6), 4)
    even, odd = ([getattr(module, name).weight for module in modules] for name in ("even", "odd"))
    with torch.no_grad():
        zs = reduces_forward([x], even, odd)
        every = reduces_backward([x], zs, even, odd)
        few = reduces_backward([x], zs, even, odd, needs_weights=False)
    assert few[1] is None
    assert few[2] is None
    assert torch.equal(few[0][0], every[0][0])


def test_nan_stays_nan():
    """A rectified NaN is NaN, so that a spoilt loss is seen."""
    modules, x, _ = case((1, 2, 4, 4), 2, edges=1)
    x[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        (z,) = reduces_forward([x], [modules[0].even.weight], [modules[0].odd.weight])
    assert z[0, 0, 0, 0].isnan()
    assert not z[0, :, 1, 1].isnan().any()
