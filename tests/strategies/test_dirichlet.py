"""Gamma and Dirichlet variates against their distributions, gradients against derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from ssfnas.strategies.dirichlet import (
    TRIES,
    LogGamma,
    dirichlet,
    divergence_from_even,
    gamma_noise,
)


def noise_of(*shape, seed=0):
    return gamma_noise(*shape, generator=torch.Generator().manual_seed(seed))


def variates(shape, count=200_000):
    noise = noise_of(count)
    return LogGamma.apply(torch.full((count,), shape, dtype=torch.float64), noise)


def below(shape, log_variates):
    """Distribution function of a gamma variate, at its logarithm."""
    shapes = torch.full_like(log_variates, shape)
    return torch.special.gammainc(shapes, log_variates.exp())


def test_noise_is_normal_then_uniform_and_its_logarithm_finite():
    noise = noise_of(50_000)
    assert noise.shape == (2 * TRIES + 1, 50_000)
    normals, uniforms = noise[:TRIES].flatten(), noise[TRIES:].flatten()
    bound = 6 / normals.numel() ** 0.5  # six standard deviations
    assert abs(normals.mean()) < bound
    assert abs(normals.square().mean() - 1) < bound * 2**0.5
    assert abs(uniforms.mean() - 0.5) < bound / 12**0.5
    assert 0 < uniforms.min() <= uniforms.max() <= 1


@pytest.mark.parametrize("shape", [1.0, 1.001, 2.0])
def test_hardly_ever_are_all_tries_refused(shape):
    """The probability that one is taken, an integral over x of its density times that over u."""
    d = shape - 1 / 3
    x = torch.linspace(-((9 * d) ** 0.5) + 1e-9, 12, 2_000_001, dtype=torch.float64)
    v = (1 + x / (9 * d) ** 0.5) ** 3
    taken = (x**2 / 2 + d * (1 - v + v.log())).clamp(max=0).exp()
    density = (-(x**2) / 2).exp() / (2 * math.pi) ** 0.5
    refused = 1 - torch.trapezoid(taken * density, x).item()
    assert 0.01 < refused < 0.05
    assert refused**TRIES < 1e-12


def test_the_first_try_that_holds_is_taken():
    draws = torch.Generator().manual_seed(1)
    shapes = 3 * torch.rand(3000, generator=draws, dtype=torch.float64) + 0.01
    noise = noise_of(3000, seed=2)
    found, later = LogGamma.apply(shapes, noise).tolist(), 0
    for place, (a, log_variate) in enumerate(zip(shapes.tolist(), found, strict=True)):
        column = noise[:, place].tolist()
        boosted = a if a >= 1 else a + 1
        d = boosted - 1 / 3
        tries = zip(column[:TRIES], column[TRIES:-1], strict=True)
        holding = []
        for x, u in tries:
            v = (1 + x / math.sqrt(9 * d)) ** 3
            holds = v > 0 and math.log(u) < x * x / 2 + d - d * v + d * math.log(v)
            holding += [(v, holds)]
        v = next(v for v, holds in holding if holds)
        later += not holding[0][1]
        wanted = math.log(d * v) + (math.log(column[-1]) / a if a < 1 else 0)
        assert log_variate == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert later > 30


@pytest.mark.parametrize("shape", [0.1, 0.6, 1.0, 2.5, 9.0])
def test_variates_have_the_gamma_distribution(shape):
    drawn = variates(shape)
    ranks = below(shape, drawn).sort().values
    even = (torch.arange(len(ranks), dtype=torch.float64) + 0.5) / len(ranks)
    # Kolmogorov's distance exceeds 2 / sqrt(n) in one of 1500 samples.
    assert (ranks - even).abs().max() < 2 / len(ranks) ** 0.5
    values = drawn.exp()
    assert values.mean().item() == pytest.approx(shape, abs=6 * (shape / len(values)) ** 0.5)
    fourth = 3 * shape**2 + 6 * shape  # central moment
    error = ((fourth - shape**2) / len(values)) ** 0.5
    assert values.var().item() == pytest.approx(shape, abs=6 * error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [1e-3, 0.03, 0.3, 0.999, 1.0, 2.5, 9.0, 30.0])
def test_gradients_move_variates_along_their_quantile(shape, dtype):
    log_variates = variates(shape, 4000)
    shapes = torch.full((4000,), shape, dtype=dtype, requires_grad=True)
    (found,) = torch.autograd.grad(LogGamma.apply(shapes, noise_of(4000).to(dtype)).sum(), shapes)
    assert bool(found.isfinite().all())
    step, part = 1e-4 * shape, 1e-4
    by_shape = below(shape + step, log_variates) - below(shape - step, log_variates)
    by_variate = below(shape, log_variates + part) - below(shape, log_variates - part)
    wanted = -(by_shape / step) / (by_variate / part)
    # Where differences of the distribution function are those of more than rounding.
    inside = (below(shape, log_variates) - 0.5).abs() < 0.4999
    inside &= log_variates > -600
    assert inside.sum() > 1500
    # PyTorch's approximations are good to a hundredth, nearly everywhere to much less.
    assert torch.allclose(found.double()[inside], wanted[inside], rtol=1e-2)
    assert (found.double() / wanted - 1)[inside].abs().median() < 1e-4


def test_far_below_gradients_are_those_of_the_power_law():
    """There F(g) is g^a / Gamma(a + 1): log g = (log F + log Gamma(a + 1)) / a."""
    noise = noise_of(3000)
    a = torch.full((3000,), 0.02, dtype=torch.float64, requires_grad=True)
    log_variates = LogGamma.apply(a, noise)
    (found,) = torch.autograd.grad(log_variates.sum(), a)
    far = log_variates.detach() < -45
    assert far.sum() > 1000
    log_rank = 0.02 * log_variates.detach() - math.lgamma(1.02)
    power_law = a.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(
        ((log_rank + (power_law + 1).lgamma()) / power_law).sum(), power_law
    )
    assert torch.allclose(found[far], wanted[far], rtol=1e-11)
    assert not torch.allclose(found, wanted, rtol=1e-3)  # elsewhere it is another one


def of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def many(concentration, left=None, count=100_000):
    """Variates [count, O] of one row, and the concentrations that they have gradients in."""
    rows = of(*concentration).repeat(count, 1).requires_grad_()
    left = torch.ones(rows.shape, dtype=torch.bool) if left is None else left.repeat(count, 1)
    return dirichlet(rows, noise_of(*rows.shape), left), rows


CONCENTRATIONS = [(1.0, 1.0, 1.0), (0.4, 2.0, 0.9, 3.0), (0.05, 0.2)]


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_mean_variance_and_rows(concentration):
    found, rows = many(concentration)
    found = found.detach()
    assert torch.allclose(found.sum(1), torch.ones(len(rows), dtype=torch.float64), atol=1e-14)
    c, total = of(*concentration), sum(concentration)
    mean = c / total
    variance = mean * (1 - mean) / (total + 1)
    assert bool(((found.mean(0) - mean).abs() < 6 * (variance / len(rows)).sqrt()).all())
    spread = (found - mean).square()
    error = spread.std(0) / len(rows) ** 0.5
    assert bool(((spread.mean(0) - variance).abs() < 6 * error).all())


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_gradients_of_a_mean_are_the_derivatives_of_it(concentration):
    """d/dc_j of c_1 / S is (j = 1) / S - c_1 / S^2, and of E[w_1^2] = c_1 (c_1 + 1) / S (S + 1)."""
    found, rows = many(concentration)
    for value, power in ((found[:, 0], 1), (found[:, 0].square(), 2)):
        (drawn,) = torch.autograd.grad(value.sum(), rows, retain_graph=True)
        c = of(*concentration).requires_grad_()
        total = c.sum()
        mean = c[0] / total if power == 1 else c[0] * (c[0] + 1) / (total * (total + 1))
        (wanted,) = torch.autograd.grad(mean, c)
        if power == 1:
            first = of(1, *(len(concentration) - 1) * [0])
            by_hand = first / total.detach() - c[0].detach() / total.detach() ** 2
            assert torch.allclose(wanted, by_hand, rtol=1e-13)
        error = drawn.std(0) / len(rows) ** 0.5
        bound = 5 * error + 1e-3 * wanted.abs()
        assert bool(((drawn.mean(0) - wanted).abs() < bound).all())


def test_what_is_left_has_the_distribution_of_what_is_left():
    left = torch.tensor([True, False, True])
    found, rows = many((0.5, 4.0, 1.5), left)
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), rows)
    assert bool((gradient[:, 1] == 0).all())
    assert bool(gradient.isfinite().all())
    found = found.detach()
    assert bool((found[:, 1] == 0).all())
    assert torch.allclose(found.sum(1), torch.ones(len(rows), dtype=torch.float64), atol=1e-14)
    # Beta(0.5, 1.5).
    assert found[:, 0].mean().item() == pytest.approx(0.25, abs=6 * (1 / 16 / len(rows)) ** 0.5)
    assert found[:, 0].var().item() == pytest.approx(1 / 16, rel=0.02)


def test_the_smallest_concentrations_in_fp32_are_one_hot_and_finite():
    rows = torch.full((5000, 7), 1e-3, requires_grad=True)
    left = torch.ones(rows.shape, dtype=torch.bool)
    found = dirichlet(rows, noise_of(5000, 7).float(), left)
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), rows)
    assert bool(gradient.isfinite().all())
    assert torch.allclose(found.sum(1), torch.ones(5000), atol=1e-6)
    assert (found.detach().max(1).values > 0.999).float().mean() > 0.95
    shares = found.detach().mean(0)
    assert bool(((shares - 1 / 7).abs() < 6 * (6 / 49 / 5000) ** 0.5).all())


def test_divergence_by_hand_and_by_its_definition():
    whole = torch.ones(1, 2, dtype=torch.bool)
    assert divergence_from_even(of([2, 1]), whole).item() == pytest.approx(math.log(2) - 0.5)
    assert divergence_from_even(torch.ones(3, 5, dtype=torch.float64), torch.ones(3, 5) > 0).equal(
        torch.zeros(3, dtype=torch.float64)
    )
    # E log (density of Dir(c) / density of Dir(1)), the latter 2! on three weights.
    c = (0.7, 2.0, 1.4)
    drawn, _ = many(c)
    constant = math.lgamma(sum(c)) - sum(map(math.lgamma, c)) - math.lgamma(3)
    logs = constant + ((of(*c) - 1) * drawn.detach().log()).sum(1)
    found = divergence_from_even(of(c), torch.ones(1, 3, dtype=torch.bool)).item()
    assert found == pytest.approx(logs.mean().item(), abs=6 * logs.std().item() / len(logs) ** 0.5)


def test_divergence_is_that_of_what_is_left_and_differentiable():
    left = torch.tensor([[True, False, True]])
    part = divergence_from_even(of([0.7, 0.001, 1.4]), left)
    kept = divergence_from_even(of([0.7, 1.4]), torch.ones(1, 2, dtype=torch.bool))
    assert torch.allclose(part, kept, rtol=1e-13)
    c = of([0.7, 0.3, 1.4], [2.0, 0.1, 1.0]).requires_grad_()
    both = torch.cat([left, torch.ones_like(left)])
    assert torch.autograd.gradcheck(lambda c: divergence_from_even(c, both), c)
