from __future__ import annotations

import pytest
import torch
from op_checks import BACKENDS, DEVICES, DTYPES, as_views, assert_as_exact, draw, forced

from ssfnas.errors import RequestError
from ssfnas.ops import barlow_twins_loss, barlow_twins_loss_reference
from ssfnas.ops.barlow_twins_loss import is_dual

SIZES = [(2, 1), (2, 7), (7, 2), (33, 16), (16, 33), (5, 100), (64, 64), (37, 129)]
METHODS = ("primal", "dual", "auto")


def inputs(n, d, dtype=torch.float64, device="cpu", *, seed=0, alike=0.6):
    z1 = draw(n, d, seed=seed) + 0.5
    z2 = alike * z1 + draw(n, d, seed=seed + 1)
    return z1.to(device, dtype), z2.to(device, dtype)


def run(function, z1, z2, **options):
    z1, z2 = z1.detach().requires_grad_(), z2.detach().requires_grad_()
    loss = function(z1, z2, **options)
    loss.backward()
    return loss.detach(), z1.grad, z2.grad


def by_loops(z1, z2, lambd, scale, eps):
    """The definition, one number at a time."""
    n, d = z1.shape

    def standard(z):
        columns = []
        for i in range(d):
            values = [float(v) for v in z[:, i]]
            mean = sum(values) / n
            variance = sum((v - mean) ** 2 for v in values) / n
            columns.append([(v - mean) / (variance + eps) ** 0.5 for v in values])
        return columns

    a, b = standard(z1), standard(z2)
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(u * v for u, v in zip(a[i], b[j], strict=True)) / n
            total += (1 - c) ** 2 if i == j else lambd * c**2
    return scale * total


@pytest.mark.parametrize("function", [barlow_twins_loss, barlow_twins_loss_reference])
@pytest.mark.parametrize("method", METHODS)
def test_value_is_the_definition(function, method):
    for n, d in ((2, 3), (6, 4), (4, 7)):
        z1, z2 = inputs(n, d)
        found = function(z1, z2, lambd=0.02, scale=0.3, eps=1e-3, method=method)
        assert float(found) == pytest.approx(by_loops(z1, z2, 0.02, 0.3, 1e-3), rel=1e-12)


def test_auto_is_the_form_with_fewer_operations():
    # 8 N^2 D of them, or 6 N D^2.
    assert is_dual(5, 8, "auto")
    assert not is_dual(7, 8, "auto")


@pytest.mark.parametrize("method", ["primal", "dual"])
def test_gradients_are_derivatives(method):
    for n, d in ((4, 3), (3, 5)):
        leaves = [z.requires_grad_() for z in inputs(n, d)]
        assert torch.autograd.gradcheck(
            lambda a, b: barlow_twins_loss(a, b, lambd=0.1, scale=2.0, method=method), leaves
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_no_less_exact_than_the_reference(name, device, dtype, method):
    for n, d in SIZES:
        z1, z2 = inputs(n, d, dtype, device)
        exact = run(barlow_twins_loss_reference, z1.cpu().double(), z2.cpu().double())
        own = run(barlow_twins_loss_reference, z1, z2)
        with forced(name, "barlow_twins_loss", (z1, z2)):
            found = run(barlow_twins_loss, z1, z2, method=method)
        assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found[1].dtype == found[2].dtype == dtype
        # A column's deviation divides its gradient, which is a difference of terms of size 1.
        steep = [1 / (z.cpu().double().var(0, correction=0) + 1e-5).sqrt() for z in (z1, z2)]
        terms = exact[0].new_full((), float(d))
        sizes = [terms, *[slope.max() * (d / n) ** 0.5 * 2 for slope in steep]]
        for number, values in enumerate(zip(found, own, exact, strict=True)):
            assert_as_exact(
                *values, size=sizes[number], length=n, what=f"[{n}, {d}] value {number}"
            )


@pytest.mark.parametrize("name", BACKENDS)
def test_dual_is_primal_and_auto_is_one_of_them(name):
    for n, d in ((24, 32), (23, 32), (8, 8), (200, 3)):
        z1, z2 = inputs(n, d)
        with forced(name, "barlow_twins_loss", (z1, z2)):
            primal, dual, auto = (run(barlow_twins_loss, z1, z2, method=m) for m in
                                  ("primal", "dual", "auto"))  # fmt: skip
        for a, b in zip(primal, dual, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        # Dual takes fewer operations where N < 3 D / 4.
        chosen = dual if n < 0.75 * d else primal
        assert all(torch.equal(a, b) for a, b in zip(auto, chosen, strict=True))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("method", ["primal", "dual"])
def test_blind_to_shift_and_scale(name, method):
    z1, z2 = inputs(12, 9)
    with forced(name, "barlow_twins_loss", (z1, z2)):

        def loss(a, b, eps=0.0):
            return barlow_twins_loss(a, b, eps=eps, method=method)

        torch.testing.assert_close(loss(z1, z1), loss(z1, 2 * z1 + 4))
        torch.testing.assert_close(loss(z1, z2), loss(3 * z1 - 1, 0.1 * z2 + 7))
        torch.testing.assert_close(loss(z1, z2), loss(z2, z1))
        order = torch.arange(12).flip(0)
        torch.testing.assert_close(loss(z1, z2), loss(z1[order], z2[order]))
        # Perfectly correlated, and decorrelated from each other: nothing is left to lose.
        basis = torch.linalg.qr(torch.cat([torch.ones(12, 1).double(), z1], dim=1)).Q[:, 1:]
        assert abs(float(loss(basis, 5 * basis))) < 1e-15


@pytest.mark.parametrize("method", ["primal", "dual"])
def test_low_rank_features_in_low_precision(method):
    # Features of rank 2 have Gram matrices far from diagonal, where bf16 would lose the loss.
    z1 = draw(40, 2, seed=1) @ draw(2, 64, seed=2)
    z2 = z1 + 0.05 * draw(40, 64, seed=3)
    half = [z.bfloat16() for z in (z1, z2)]
    exact = run(barlow_twins_loss_reference, *(z.double() for z in half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(barlow_twins_loss, *half, method=method)
    assert float(found[0]) == pytest.approx(float(exact[0]), rel=1e-4)
    for value, expected in zip(found[1:], exact[1:], strict=True):
        assert (value.double() - expected).norm() < 0.004 * expected.norm()


@pytest.mark.parametrize("name", BACKENDS)
def test_views_and_single_gradients(name):
    z1, z2 = inputs(9, 6, torch.float32)
    exact = run(barlow_twins_loss, z1, z2)
    with forced(name, "barlow_twins_loss", (z1, z2)):
        for a, b in (as_views([z1, z2]), (z1.T.contiguous().T, z2), (z1, z2.T.contiguous().T)):
            for value, expected in zip(run(barlow_twins_loss, a, b), exact, strict=True):
                torch.testing.assert_close(value, expected)
        leaf = z1.clone().requires_grad_()
        barlow_twins_loss(leaf, z2).backward()
        torch.testing.assert_close(leaf.grad, exact[1])
        leaf = z2.clone().requires_grad_()
        barlow_twins_loss(z1, leaf, scale=0.5).backward()
        torch.testing.assert_close(leaf.grad, exact[2] / 2)


def test_reference_is_differentiable_twice():
    leaves = [z.requires_grad_() for z in inputs(4, 3)]
    assert torch.autograd.gradgradcheck(barlow_twins_loss_reference, leaves)


@pytest.mark.parametrize("name", BACKENDS)
def test_same_call_same_bits(name):
    z1, z2 = inputs(33, 70, torch.float32)
    with forced(name, "barlow_twins_loss", (z1, z2)):
        first, second = run(barlow_twins_loss, z1, z2), run(barlow_twins_loss, z1, z2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("function", [barlow_twins_loss, barlow_twins_loss_reference])
def test_bad_inputs_are_named(function):
    z = torch.ones(4, 3)
    for z1, z2, options, words in [
        (z[:1], z[:1], {}, "1 image"),
        (z[:0], z[:0], {}, "0 image"),
        (z, z[:3], {}, r"\[4, 3\] and \[3, 3\]"),
        (z[:, :0], z[:, :0], {}, r"\[N, D\]"),
        (z[0], z[0], {}, r"\[N, D\]"),
        (z, z.double(), {}, "one floating dtype"),
        (z.long(), z.long(), {}, "floating"),
        (z, z.to("meta"), {}, "one device"),
        (z, z, {"method": "gram"}, "primal, dual"),
    ]:
        with pytest.raises(RequestError, match=words):
            function(z1, z2, **options)
