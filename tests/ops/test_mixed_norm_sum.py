from __future__ import annotations

import math

import pytest
import torch
from op_checks import BACKENDS, DEVICES, DTYPES, as_views, assert_as_exact, draw, forced
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.ops import mixed_norm_sum, mixed_norm_sum_reference

SHAPES = [(2, 1), (7, 3), (33, 5), (0, 4), (1, 3, 2, 1), (3, 5, 7, 9), (5, 16, 8, 8), (2, 3, 6)]


def inputs(shape, count, dtype, device="cpu", *, seed=0):
    zs = []
    for k in range(count):
        values = draw(*shape, seed=100 * seed + k)
        # Means and deviations that differ from input to input.
        zs.append((values * (0.5 + k) + 0.7 * k - 1).to(device, dtype))
    weights = draw(count, seed=100 * seed + 50).to(device)
    grad = draw(*shape, seed=100 * seed + 60, dtype=dtype, device=device)
    return zs, weights.to(torch.float64 if dtype == torch.float64 else torch.float32), grad


def run(function, zs, weights, grad, *, needs_z=None, needs_weights=True, **options):
    needs_z = needs_z or [True] * len(zs)
    zs = [z.detach().requires_grad_(need) for z, need in zip(zs, needs_z, strict=True)]
    weights = weights.detach().requires_grad_(needs_weights)
    out, mean, var, count = function(zs, weights, return_stats=True, **options)
    out.backward(grad)
    assert not any(value.requires_grad for value in (mean, var, count))
    return out.detach(), mean, var, weights.grad, *[z.grad for z in zs]


def truth(zs, weights, grad, **options):
    double = [z.cpu().double() for z in zs]
    grad = grad.cpu().double()
    return run(mixed_norm_sum_reference, double, weights.cpu().double(), grad, **options)


def statistics(zs):
    axes = [axis for axis in range(zs[0].dim()) if axis != 1]
    return (
        torch.stack([z.mean(axes) for z in zs]),
        torch.stack([z.var(axes, correction=0) for z in zs]),
    )


def assert_close(found, expected, **tolerances):
    for value, other in zip(found, expected, strict=True):
        assert (value is None) == (other is None)
        if value is not None:
            torch.testing.assert_close(value.double(), other.double(), **tolerances)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_less_exact_than_the_reference(name, device, dtype, shape):
    length = math.prod(shape) // shape[1]
    for count in (1, 2, 5):
        zs, weights, grad = inputs(shape, count, dtype, device)
        for normalize in (None, [k % 2 == 0 for k in range(count)], [False] * count):
            exact = truth(zs, weights, grad, normalize=normalize)
            own = run(mixed_norm_sum_reference, zs, weights, grad, normalize=normalize)
            with forced(name, "mixed_norm_sum", zs):
                found = run(mixed_norm_sum, zs, weights, grad, normalize=normalize)
            assert found[0].dtype == dtype
            assert found[1].dtype == found[3].dtype == weights.dtype
            # Each is a difference of larger things: a z and a b, g and its projections, or a sum.
            factors = scales(zs, weights, normalize)
            norms = [z.double().norm().cpu() for z in zs]
            g = grad.double().norm().cpu()
            summed = [f * n for f, n in zip(factors, norms, strict=True)]
            products = [
                g * n * f / w.abs().cpu() for f, n, w in zip(factors, norms, weights, strict=True)
            ]
            sizes = [torch.stack(summed), None, None, torch.stack(products)]
            # Deviations from a mean lose what the mean has more digits before the point.
            largest = [float(z.abs().max()) if z.numel() else 0.0 for z in zs]
            sizes += [
                f * g * (1 + m * f / w.abs().cpu())
                for f, m, w in zip(factors, largest, weights, strict=True)
            ]
            for number, values in enumerate(zip(found, own, exact, strict=True)):
                assert_as_exact(
                    *values,
                    size=sizes[number],
                    length=max(length, 1),
                    what=f"K={count}, normalize={normalize}, value {number}",
                )


def scales(zs, weights, normalize):
    """|w_k| over the smallest deviation of input k over its channels: the largest |a_kc|."""
    factors = []
    for k, z in enumerate(zs):
        flag = normalize is None or normalize[k]
        wide = z.cpu().double().transpose(0, 1).flatten(1)
        smallest = (wide.var(1, correction=0) + 1e-5).sqrt().min() if flag and z.numel() else 1.0
        factors.append(weights[k].cpu().double().abs() / smallest)
    return factors


def test_reference_is_a_weighted_sum_of_batch_norms():
    zs, weights, _ = inputs((4, 3, 5, 2), 3, torch.float64)
    flags = [True, False, True]
    expected = torch.zeros_like(zs[0])
    for flag, z, weight in zip(flags, zs, weights, strict=True):
        normal = F.batch_norm(z, None, None, training=True, eps=1e-3) if flag else z
        expected += weight * normal
    out, mean, var, count = mixed_norm_sum_reference(
        zs, weights, normalize=flags, eps=1e-3, return_stats=True
    )
    torch.testing.assert_close(out, expected)
    assert float(count) == 4 * 5 * 2
    for k in (0, 2):
        torch.testing.assert_close(mean[k], zs[k].mean((0, 2, 3)))
        torch.testing.assert_close(var[k], zs[k].var((0, 2, 3), correction=0))
    assert torch.equal(mean[1], torch.zeros(3).double())
    assert torch.equal(var[1], torch.ones(3).double())


@pytest.mark.parametrize("name", BACKENDS)
def test_gradients_are_derivatives(name):
    zs, weights, _ = inputs((3, 2, 2, 2), 3, torch.float64)
    leaves = [value.requires_grad_() for value in (weights, *zs)]
    constants = tuple(values.detach() for values in statistics(zs))
    with forced(name, "mixed_norm_sum", zs):
        for options in (
            {},
            {"normalize": [True, False, True]},
            {"training": False, "stats": constants},
            {"training": False, "normalize": [False] * 3},
        ):

            def total(w, *zs, options=options):
                return mixed_norm_sum(zs, w, **options)

            assert torch.autograd.gradcheck(total, leaves)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("flags", [None, [True, False, True]])
def test_given_statistics_are_differentiated_either_way(name, flags):
    zs, weights, grad = inputs((3, 2, 4, 5), 3, torch.float64)
    exact = truth(zs, weights, grad, normalize=flags)
    with forced(name, "mixed_norm_sum", zs):
        fixed = run(mixed_norm_sum, zs, weights, grad, normalize=flags, stats=statistics(zs))
        assert_close(fixed, exact)
        for function in (mixed_norm_sum, mixed_norm_sum_reference):
            leaves = [z.clone().requires_grad_() for z in zs]
            w = weights.clone().requires_grad_()
            out = function(leaves, w, normalize=flags, stats=statistics(leaves))
            out.backward(grad)
            assert_close([out.detach(), w.grad, *[z.grad for z in leaves]], [exact[0], *exact[3:]])


def test_gradient_of_the_statistics_themselves():
    zs, weights, _ = inputs((3, 2, 2, 2), 2, torch.float64)
    mean, var = (values.detach().requires_grad_() for values in statistics(zs))
    for flags in (None, [False, True]):
        assert torch.autograd.gradcheck(
            lambda m, v, flags=flags: mixed_norm_sum(zs, weights, stats=(m, v), normalize=flags),
            (mean, var),
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_constants_as_in_evaluation(name):
    zs, weights, grad = inputs((4, 3, 5, 2), 2, torch.float64)
    mean, var = draw(2, 3, seed=1), draw(2, 3, seed=2).square() + 0.1
    expected = sum(
        w * F.batch_norm(z, m, v, training=False, eps=1e-5)
        for w, z, m, v in zip(weights, zs, mean, var, strict=True)
    )
    with forced(name, "mixed_norm_sum", zs):
        found = run(mixed_norm_sum, zs, weights, grad, training=False, stats=(mean, var))
    torch.testing.assert_close(found[0], expected)
    for k in range(2):
        factor = (weights[k] / (var[k] + 1e-5).sqrt()).view(1, -1, 1, 1)
        torch.testing.assert_close(found[4 + k], factor * grad)


def test_reference_is_differentiable_twice():
    zs, weights, _ = inputs((3, 2, 2), 2, torch.float64)
    leaves = [value.requires_grad_() for value in (weights, *zs)]
    assert torch.autograd.gradgradcheck(
        lambda w, *zs: mixed_norm_sum_reference(zs, w, normalize=[True, False]), leaves
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_only_wanted_gradients_are_made(name):
    zs, weights, grad = inputs((3, 4, 2, 2), 3, torch.float32)
    with forced(name, "mixed_norm_sum", zs):
        for needs_z in ([True, False, True], [False, True, False], [False] * 3):
            for needs_weights in (True, False):
                if not needs_weights and not any(needs_z):
                    continue
                options = {
                    "needs_z": needs_z,
                    "needs_weights": needs_weights,
                    "normalize": [True, False, True],
                }
                found = run(mixed_norm_sum, zs, weights, grad, **options)
                exact = truth(zs, weights, grad, **options)
                assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_layouts_and_views(name):
    zs, weights, grad = inputs((3, 6, 5, 4), 3, torch.float32)
    exact = truth(zs, weights, grad)
    wide = torch.zeros(3, 12, 5, 4).to(memory_format=torch.channels_last)
    wide[:, 3:9] = zs[1]
    last = [z.to(memory_format=torch.channels_last) for z in zs]
    with forced(name, "mixed_norm_sum", zs):
        for given, layout in (
            (last, torch.channels_last),
            ([last[0], wide[:, 3:9], zs[2]], torch.channels_last),
            ([zs[0], wide[:, 3:9], last[2]], torch.contiguous_format),
            (as_views(zs), torch.contiguous_format),
            (as_views(last), torch.channels_last),
        ):
            for g in (grad, grad.to(memory_format=torch.channels_last)):
                found = run(mixed_norm_sum, given, weights, g)
                assert found[0].is_contiguous(memory_format=layout)
                assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_large_means_do_not_cancel(name):
    zs, weights, grad = inputs((64, 4, 9, 9), 2, torch.float32)
    shifted = [z + 300 for z in zs]
    with forced(name, "mixed_norm_sum", zs):
        found = run(mixed_norm_sum, shifted, weights, grad)
    exact = truth(shifted, weights, grad)
    # Rounding z itself near 300 costs 300 * 2^-24; E[x^2] - E[x]^2 would cost 300 times that.
    assert_close(found, exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", BACKENDS)
def test_order_of_candidates_does_not_matter(name):
    zs, weights, _ = inputs((5, 3, 4, 4), 5, torch.float64)
    order = [3, 0, 4, 1, 2]
    flags = [True, False, True, True, False]
    with forced(name, "mixed_norm_sum", zs):
        there = mixed_norm_sum(zs, weights, normalize=flags)
        back = mixed_norm_sum(
            [zs[k] for k in order], weights[order], normalize=[flags[k] for k in order]
        )
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize("name", BACKENDS)
def test_same_call_same_bits_and_inputs_untouched(name):
    zs, weights, grad = inputs((4, 16, 9, 9), 4, torch.float32)
    stats = tuple(values.float() for values in statistics(zs))
    before = [value.clone() for value in (*zs, weights, grad, *stats)]
    with forced(name, "mixed_norm_sum", zs):
        for options in ({}, {"stats": stats}, {"stats": stats, "normalize": [True, False] * 2}):
            first = run(mixed_norm_sum, zs, weights, grad, **options)
            second = run(mixed_norm_sum, zs, weights, grad, **options)
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    after = (*zs, weights, grad, *stats)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_autocast_does_not_lower_the_precision():
    zs, weights, grad = inputs((4, 8, 5, 5), 3, torch.float32)
    exact = truth(zs, weights, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(mixed_norm_sum, zs, weights, grad)
        joined = mixed_norm_sum([zs[0].bfloat16(), zs[1], zs[2]], weights)
    assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert joined.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in found)


@pytest.mark.parametrize("function", [mixed_norm_sum, mixed_norm_sum_reference])
def test_bad_inputs_are_named(function):
    z, weights = torch.ones(2, 3, 4, 4), torch.ones(2)
    stats = (torch.zeros(2, 3), torch.ones(2, 3))
    for zs, options, words in [
        ([z, z[:, :2]], {}, r"tensor 1 has the shape \[2, 2, 4, 4\]"),
        ([torch.ones(5)] * 2, {}, r"\[N, C, ...\] is meant"),
        ([z, z], {"normalize": [True]}, "1 flags for 2 tensors"),
        ([z, z], {"training": False}, "training=False"),
        ([z, z], {"stats": (stats[0], torch.ones(3))}, r"each \[2, 3\]"),
        ([z[:1, :, :1, :1]] * 2, {}, "one value a channel"),
        ([z[:1, :, 0, 0]] * 2, {"normalize": [True, False]}, "one value a channel"),
    ]:
        with pytest.raises(RequestError, match=words):
            function(zs, weights, **options)


def test_a_single_value_is_fine_where_nothing_is_estimated():
    z, weights = torch.full((1, 3), 2.0), torch.ones(1)
    torch.testing.assert_close(mixed_norm_sum([z], weights, normalize=[False]), z)
    out = mixed_norm_sum(
        [z], weights, training=False, stats=(torch.ones(1, 3), torch.full((1, 3), 4.0)), eps=0.0
    )
    torch.testing.assert_close(out, torch.full((1, 3), 0.5))
