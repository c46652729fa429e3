from __future__ import annotations

import pytest
import torch
from op_checks import BACKENDS, DEVICES, DTYPES, as_views, assert_as_exact, draw, forced

from ssfnas.errors import RequestError
from ssfnas.ops import mixed_sum, mixed_sum_reference

SHAPES = [(1,), (7,), (33,), (1000,), (0,), (1, 1, 1, 1), (3, 5, 7, 9), (2, 16, 8, 8)]


def inputs(shape, count, dtype, device, *, seed=0):
    xs = [draw(*shape, seed=100 * seed + k, dtype=dtype, device=device) for k in range(count)]
    weights = draw(count, seed=100 * seed + 50, dtype=torch.float32).to(device)
    grad = draw(*shape, seed=100 * seed + 60, dtype=dtype, device=device)
    return xs, weights.to(torch.float64 if dtype == torch.float64 else torch.float32), grad


def run(function, xs, weights, grad, needs_x=None, needs_weights=True):
    """The sum and its gradients, None for what needs none."""
    needs_x = needs_x or [True] * len(xs)
    xs = [x.detach().requires_grad_(need) for x, need in zip(xs, needs_x, strict=True)]
    weights = weights.detach().requires_grad_(needs_weights)
    out = function(xs, weights)
    out.backward(grad)
    return out.detach(), weights.grad, *[x.grad for x in xs]


def truth(xs, weights, grad, **needs):
    double = [x.cpu().double() for x in xs]
    return run(mixed_sum_reference, double, weights.cpu().double(), grad.cpu().double(), **needs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_less_exact_than_the_reference(name, device, dtype, shape):
    for count in (1, 2, 5, 8):
        xs, weights, grad = inputs(shape, count, dtype, device)
        exact = truth(xs, weights, grad)
        own = run(mixed_sum_reference, xs, weights, grad)
        with forced(name, "mixed_sum", xs):
            found = run(mixed_sum, xs, weights, grad)
        assert found[0].dtype == dtype
        assert found[1].dtype == weights.dtype
        terms = torch.stack([w * x.double().cpu() for w, x in zip(weights.cpu(), xs, strict=True)])
        products = torch.stack([(grad * x).double().cpu().norm() for x in xs])
        sizes = [terms.norm(dim=0), products, *[None] * count]
        for number, values in enumerate(zip(found, own, exact, strict=True)):
            length = xs[0].numel() if number == 1 else count
            what = f"K={count}, value {number}"
            assert_as_exact(*values, size=sizes[number], length=length, what=what)


def test_reference_is_the_definition():
    xs, weights, _ = inputs((2, 3), 3, torch.float64, "cpu")
    out = mixed_sum_reference(xs, weights)
    for i in range(2):
        for j in range(3):
            expected = sum(float(weights[k]) * float(xs[k][i, j]) for k in range(3))
            assert float(out[i, j]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("function", [mixed_sum, mixed_sum_reference])
def test_gradients_are_derivatives(function):
    xs, weights, _ = inputs((2, 3, 2), 3, torch.float64, "cpu")
    leaves = [value.requires_grad_() for value in (weights, *xs)]
    assert torch.autograd.gradcheck(lambda w, *xs: function(xs, w), leaves)


def test_reference_is_differentiable_twice():
    xs, weights, _ = inputs((2, 3), 2, torch.float64, "cpu")
    leaves = [value.requires_grad_() for value in (weights, *xs)]
    assert torch.autograd.gradgradcheck(lambda w, *xs: mixed_sum_reference(xs, w), leaves)


@pytest.mark.parametrize("name", BACKENDS)
def test_only_wanted_gradients_are_made(name):
    xs, weights, grad = inputs((3, 4, 2, 2), 3, torch.float32, "cpu")
    with forced(name, "mixed_sum", xs):
        for needs_x in ([True, False, True], [False, False, True], [False, False, False]):
            for needs_weights in (True, False):
                if not needs_weights and not any(needs_x):
                    continue
                found = run(mixed_sum, xs, weights, grad, needs_x, needs_weights)
                exact = truth(xs, weights, grad, needs_x=needs_x, needs_weights=needs_weights)
                assert [v is None for v in found] == [v is None for v in exact]
                for value, expected in zip(found, exact, strict=True):
                    if value is not None:
                        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_layouts_and_views(name):
    xs, weights, grad = inputs((3, 6, 5, 4), 4, torch.float32, "cpu")
    exact = truth(xs, weights, grad)
    wide = torch.zeros(3, 12, 5, 4).to(memory_format=torch.channels_last)
    wide[:, 3:9] = xs[2]
    mixed = [
        xs[0].to(memory_format=torch.channels_last),
        xs[1],
        wide[:, 3:9],
        xs[3].permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2),
    ]
    cases = [
        ([x.to(memory_format=torch.channels_last) for x in xs], torch.channels_last),
        (mixed, torch.channels_last),
        ([mixed[2], mixed[0], mixed[1], mixed[3]], torch.channels_last),
        (as_views(xs), torch.contiguous_format),
        ([mixed[1], mixed[0], mixed[2], mixed[3]], torch.contiguous_format),
    ]
    orders = [range(4), range(4), (2, 0, 1, 3), range(4), (1, 0, 2, 3)]
    with forced(name, "mixed_sum", xs):
        for (given, layout), order in zip(cases, orders, strict=True):
            order = list(order)
            out, dweights, *dxs = run(mixed_sum, given, weights[order], grad)
            assert out.is_contiguous(memory_format=layout)
            torch.testing.assert_close(out.double(), exact[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(dweights.double(), exact[1][order], rtol=1e-5, atol=1e-5)
            for k, dx in zip(order, dxs, strict=True):
                torch.testing.assert_close(dx.double(), exact[2 + k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_gradient_of_a_plain_sum(name):
    # Its gradient is one number expanded to the shape: no memory of its own.
    xs, weights, _ = inputs((3, 6, 5, 4), 2, torch.float64, "cpu")
    weights.requires_grad_()
    with forced(name, "mixed_sum", xs):
        mixed_sum(xs, weights).sum().backward()
    torch.testing.assert_close(weights.grad, torch.stack([x.sum() for x in xs]))


@pytest.mark.parametrize("name", BACKENDS)
def test_linear_and_blind_to_the_order(name):
    xs, weights, _ = inputs((4, 33), 5, torch.float64, "cpu")
    ys, others, _ = inputs((4, 33), 5, torch.float64, "cpu", seed=1)
    with forced(name, "mixed_sum", xs):
        both = mixed_sum([2 * x + y for x, y in zip(xs, ys, strict=True)], weights)
        torch.testing.assert_close(both, 2 * mixed_sum(xs, weights) + mixed_sum(ys, weights))
        torch.testing.assert_close(
            mixed_sum(xs, weights - 3 * others),
            mixed_sum(xs, weights) - 3 * mixed_sum(xs, others),
        )
        order = [3, 0, 4, 1, 2]
        torch.testing.assert_close(
            mixed_sum([xs[k] for k in order], weights[order]), mixed_sum(xs, weights)
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_same_call_same_bits_and_inputs_untouched(name):
    xs, weights, grad = inputs((2, 16, 33, 31), 5, torch.float32, "cpu")
    before = [x.clone() for x in (*xs, weights, grad)]
    with forced(name, "mixed_sum", xs):
        first = run(mixed_sum, xs, weights, grad)
        second = run(mixed_sum, xs, weights, grad)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (*xs, weights, grad), strict=True))


def test_autocast_keeps_weights_exact_and_joins_dtypes():
    xs, weights, grad = inputs((4, 8, 5, 5), 3, torch.float32, "cpu")
    exact = truth(xs, weights, grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(mixed_sum, xs, weights, grad)
        joined = mixed_sum([xs[0].bfloat16(), xs[1], xs[2]], weights)
    for value, expected in zip(found, exact, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    assert joined.dtype == torch.float32
    torch.testing.assert_close(joined.double(), exact[0], rtol=0.02, atol=0.02)


def test_low_precision_weights_are_widened():
    xs, weights, _ = inputs((1000,), 4, torch.float32, "cpu")
    half = weights.bfloat16().requires_grad_()
    out = mixed_sum(xs, half)
    out.sum().backward()
    torch.testing.assert_close(out, mixed_sum(xs, half.detach().float()))
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("function", [mixed_sum, mixed_sum_reference])
def test_bad_inputs_are_named(function):
    x, weights = torch.ones(2, 3), torch.ones(2)
    for xs, given, words in [
        ([], torch.ones(0), "nothing to sum"),
        ([x, torch.ones(3, 2)], weights, r"tensor 1 has the shape \[3, 2\]"),
        ([x, x], torch.ones(3), r"2 tensors need \[2\]"),
        ([x, x], torch.ones(2, 1), r"shape \[2, 1\]"),
        ([x, x.double()], weights, "one dtype"),
        ([x, x.long()], weights, "floating point"),
        ([x, x], torch.ones(2, dtype=torch.int64), "floating point"),
        ([x, x.to("meta")], weights, "one device"),
        ([x, x], weights.to("meta"), "one device"),
    ]:
        with pytest.raises(RequestError, match=words):
            function(xs, given)
