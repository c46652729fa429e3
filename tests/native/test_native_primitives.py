"""Native primitives against their definitions in float64, on each instruction set and a GPU."""

from __future__ import annotations

import pytest
import torch
from native_checks import (
    DTYPES,
    FORMATS,
    PLACES,
    SHAPES,
    Draws,
    assert_sum_of_terms,
    assert_total,
    assert_variance,
    displaced,
    needs_native,
    on,
    over_places,
    per_channel,
    wide,
)

from ssfnas.ops import native

pytestmark = [
    needs_native,
    pytest.mark.parametrize("place", PLACES),
    pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:]),
    pytest.mark.parametrize("layout", FORMATS),
]
COUNTS = (1, 2, 7)


def cases(draws: Draws):
    """Numbers of tensors and shapes, each with the tensors aligned and not."""
    for shape in SHAPES:
        for count in COUNTS:
            yield f"{count} x {shape}", draws.tensors(count, shape), draws.tensor(shape)
        xs = [displaced(x) for x in draws.tensors(3, shape)]
        yield f"3 displaced x {shape}", xs, displaced(draws.tensor(shape))
    for count in (*range(3, 36, 4), 64):
        yield f"{count} tensors", draws.tensors(count, (2, 8, 3, 4)), draws.tensor((2, 8, 3, 4))
    # Several blocks on a CPU and on a GPU, the last one not full.
    shape = (9, 24, 37, 19)
    yield f"several blocks: {shape}", draws.tensors(2, shape), draws.tensor(shape)


def test_mixed_sum_is_the_weighted_sum(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, xs, _ in cases(draws):
            weights = draws.values(len(xs))
            out = native.mixed_sum_forward(xs, weights)
            terms = [w * wide(x) for w, x in zip(wide(weights), xs, strict=True)]
            assert_sum_of_terms(out, terms, torch.empty_like(xs[0]), what)


def test_mixed_sum_gradients_are_scaled_gradients_and_inner_products(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, xs, grad in cases(draws):
            weights, count = draws.values(len(xs)), len(xs)
            needs = [k % 3 != 1 for k in range(count)]
            dxs, dweights = native.mixed_sum_backward(grad, xs, weights, needs, True)
            for k in range(count):
                if not needs[k]:
                    assert dxs[k] is None, what
                    continue
                term = wide(weights)[k] * wide(grad)
                assert_sum_of_terms(dxs[k], [term], torch.empty_like(grad), what)
            products = torch.stack([(wide(x) * wide(grad)).flatten() for x in xs])
            assert_total(dweights, products.sum(1), products.abs().sum(1), dtype, what)


def test_gradients_that_no_cache_holds_are_scaled_gradients(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        shape = (9, 24, 37, 19)
        grad, weights = draws.tensor(shape), draws.values(16)
        assert grad.nbytes * len(weights) > 4 << 20
        xs = [draws.tensor(shape)] * len(weights)
        dxs, dweights = native.mixed_sum_backward(grad, xs, weights, [True] * len(xs), True)
        for weight, dx in zip(wide(weights), dxs, strict=True):
            assert_sum_of_terms(dx, [weight * wide(grad)], torch.empty_like(grad), str(shape))
        assert dweights.eq(dweights[0]).all()


def test_statistics_are_mean_and_biased_variance(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, zs, _ in cases(draws):
            mean, var = native.norm_statistics(zs, [True] * len(zs))
            for k, z in enumerate(zs):
                flat = wide(z).transpose(0, 1).flatten(1)
                size = flat.abs().mean(1)
                assert_total(mean[k], flat.mean(1), size, dtype, what)
                assert_variance(var[k], flat.var(1, correction=0), size, dtype, what)


def test_variance_survives_a_large_mean(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for shape in ((4, 16, 20, 20), (3, 5, 33, 31), (64, 130, 2, 2)):
            z = draws.tensor(shape, mean=100.0 if dtype.itemsize == 2 else 3000.0)
            mean, var = native.norm_statistics([z], [True])
            flat = wide(z).transpose(0, 1).flatten(1)
            torch.testing.assert_close(wide(mean[0]), flat.mean(1), rtol=3e-6, atol=0)
            # E[z^2] - E[z]^2 would be off by half in float32.
            torch.testing.assert_close(wide(var[0]), flat.var(1, correction=0), rtol=3e-4, atol=0)


def test_statistics_that_are_not_wanted_are_not_read(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for shape in SHAPES:
            zs = draws.tensors(3, shape)
            zs[1].fill_(float("nan"))
            mean, var = native.norm_statistics(zs, [True, False, True])
            assert mean[1].eq(0).all(), shape
            assert var[1].eq(1).all(), shape
            for k in (0, 2):
                alone = native.norm_statistics(zs[k : k + 1], [True])
                assert torch.equal(mean[k], alone[0][0]), shape
                assert torch.equal(var[k], alone[1][0]), shape


def test_norm_sum_is_affine_in_each_channel(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, zs, _ in cases(draws):
            channels = zs[0].shape[1]
            a, b = draws.values(len(zs), channels), draws.values(channels)
            out = native.norm_sum_forward(zs, a, b)
            terms = [per_channel(row, z) * wide(z) for row, z in zip(a, zs, strict=True)]
            terms.append(per_channel(b, zs[0]).expand(zs[0].shape))
            assert_sum_of_terms(out, terms, torch.empty_like(zs[0]), what)


def test_norm_sum_reduces_gradient_and_standardized_inputs(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, zs, grad in cases(draws):
            mean = draws.values(len(zs), zs[0].shape[1])
            rstd = draws.values(len(zs), zs[0].shape[1])
            s0, s1 = native.norm_sum_reduce(grad, zs, mean, rstd)
            g = wide(grad)
            assert_total(s0, over_places(g), over_places(g.abs()), dtype, what)
            for k, z in enumerate(zs):
                term = g * (wide(z) - per_channel(mean[k], z)) * per_channel(rstd[k], z)
                assert_total(s1[k], over_places(term), over_places(term.abs()), dtype, what)


def test_norm_sum_applies_coefficients(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for what, zs, grad in cases(draws):
            shape, count = (len(zs), zs[0].shape[1]), len(zs)
            p, q, r = draws.values(*shape), draws.values(*shape), draws.values(*shape)
            needs = [k % 3 != 1 for k in range(count)]
            dzs = native.norm_sum_apply(grad, zs, p, q, r, needs)
            assert [dz is not None for dz in dzs] == needs, what
            for k, z in enumerate(zs):
                if needs[k]:
                    terms = [
                        per_channel(p[k], z) * wide(grad),
                        per_channel(q[k], z) * wide(z),
                        per_channel(r[k], z).expand(z.shape),
                    ]
                    assert_sum_of_terms(dzs[k], terms, torch.empty_like(z), what)


def test_inputs_in_other_layouts_give_the_same_bits(place, dtype, layout):
    other = FORMATS["channels_last" if layout == "nchw" else "nchw"]
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        zs, grad = draws.tensors(3, (3, 5, 7, 6)), draws.tensor((3, 5, 7, 6))
        mixed = [zs[0], zs[1].contiguous(memory_format=other), zs[2].repeat(1, 2, 1, 1)[:, :5]]
        turned = grad.contiguous(memory_format=other)
        weights, a, b = draws.values(3), draws.values(3, 5), draws.values(5)
        for function in (
            lambda g, xs: native.mixed_sum_forward(xs, weights),
            lambda g, xs: native.mixed_sum_backward(g, xs, weights, [True] * 3, True)[0][2],
            lambda g, xs: native.mixed_sum_backward(g, xs, weights, [True] * 3, True)[1],
            lambda g, xs: native.norm_statistics(xs, [True] * 3)[1],
            lambda g, xs: native.norm_sum_forward(xs, a, b),
            lambda g, xs: native.norm_sum_reduce(g, xs, a, a + 1)[1],
            lambda g, xs: native.norm_sum_apply(g, xs, a, a + 1, a + 2, [True] * 3)[1],
        ):
            expected, found = function(grad, zs), function(turned, mixed)
            assert torch.equal(expected, found)
            assert expected.stride() == found.stride()


def test_empty_tensors(place, dtype, layout):
    with on(place) as device:
        draws = Draws(dtype, layout, device)
        for shape in ((0, 3, 4, 4), (2, 3, 0, 4), (0, 3)):
            zs, grad = draws.tensors(2, shape), draws.tensor(shape)
            weights, a, b = draws.values(2), draws.values(2, 3), draws.values(3)
            assert native.mixed_sum_forward(zs, weights).shape == shape
            dxs, dweights = native.mixed_sum_backward(grad, zs, weights, [True, False], True)
            assert dxs[0].shape == shape
            assert dxs[1] is None
            assert dweights.tolist() == [0, 0]
            mean, var = native.norm_statistics(zs, [True, False])
            assert mean[0].isnan().all()
            assert var[0].isnan().all()
            assert mean[1].tolist() == [0, 0, 0]
            assert var[1].tolist() == [1, 1, 1]
            assert native.norm_sum_forward(zs, a, b).shape == shape
            s0, s1 = native.norm_sum_reduce(grad, zs, a, a)
            assert s0.tolist() == [0, 0, 0]
            assert s1.eq(0).all()
            assert native.norm_sum_apply(grad, zs, a, a, a, [False, True])[1].shape == shape
