"""Coefficients of normalized sums against what they stand for: BatchNorm and its gradient."""

from __future__ import annotations

import pytest
import torch

from ssfnas.ops.norm_coefficients import (
    MEAN,
    RSTD,
    SCALE,
    SHIFT,
    VAR,
    enter_statistics,
    gradient_coefficients,
    node_coefficients,
)
from ssfnas.ops.selection import primitive, why_unsupported

EPS = 1e-5


@pytest.fixture(autouse=True, params=["torch", "native"])
def backend_functions(request, monkeypatch):
    """The three functions by their names, of each backend that CPUs have."""
    reason = why_unsupported(request.param, "norm_coefficients", [torch.zeros(1)])
    if reason is not None:
        pytest.skip(reason)
    for name in ("enter_statistics", "node_coefficients", "gradient_coefficients"):
        monkeypatch.setitem(globals(), name, primitive(request.param, name))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(count=3, channels=4, seed=0):
    """K tensors [N, C, H, W], each channel with a mean and spread of its own."""
    shape = (count, 5, channels, 3, 2)
    spread = draws(count, 1, channels, 1, 1, seed=seed + 1).exp()
    return draws(*shape, seed=seed) * spread + draws(count, 1, channels, 1, 1, seed=seed + 2)


def statistics_of(zs):
    axes = (1, 3, 4)
    return zs.mean(axes), zs.var(axes, correction=0)


def row(values):
    return values.view(1, -1, 1, 1)


def test_statistics_fill_their_rows_and_no_other():
    mean, var = draws(2, 4), draws(2, 4, seed=1).square()
    table = torch.full((5, 7, 4), 9.0, dtype=torch.float64)
    enter_statistics(table, 3, mean, var, EPS)
    assert torch.equal(table[MEAN, 3:5], mean)
    assert torch.equal(table[VAR, 3:5], var)
    torch.testing.assert_close(table[RSTD, 3:5], 1 / (var + EPS).sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(table[SCALE, 3:5], table[RSTD, 3:5], rtol=0, atol=0)
    torch.testing.assert_close(table[SHIFT, 3:5], -mean / (var + EPS).sqrt(), rtol=1e-14, atol=0)
    assert bool((table[:, [0, 1, 2, 5, 6]] == 9).all())


def test_a_node_is_the_weighted_sum_of_normalized_inputs():
    zs, table = inputs(), torch.zeros(5, 6, 4, dtype=torch.float64)
    weights, rows, places = draws(8), torch.tensor([5, 1, 3]), torch.tensor([7, 0, 4])
    mean, var = statistics_of(zs)
    for k, at in enumerate(rows.tolist()):
        enter_statistics(table, at, mean[k : k + 1], var[k : k + 1], EPS)
    (mean_k, rstd, a), b = node_coefficients(table, rows, weights, places)
    assert torch.equal(mean_k, mean)
    torch.testing.assert_close(rstd, 1 / (var + EPS).sqrt(), rtol=1e-15, atol=0)
    found = sum(row(a[k]) * z for k, z in enumerate(zs)) + row(b)
    wanted = sum(
        weights[place] * torch.nn.functional.batch_norm(z, None, None, training=True, eps=EPS)
        for place, z in zip(places, zs, strict=True)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_weights_and_biases_of_batch_normalization_join_scale_and_shift():
    zs, gamma, beta = inputs(), draws(3, 4, seed=7), draws(3, 4, seed=8)
    table, weights, rows = torch.zeros(5, 4, 4, dtype=torch.float64), draws(3), torch.arange(1, 4)
    enter_statistics(table, 1, *statistics_of(zs), EPS, gamma, beta)
    (_, _, a), b = node_coefficients(table, rows, weights, torch.arange(3))
    wanted = sum(
        weights[k] * torch.nn.functional.batch_norm(
            z, None, None, gamma[k], beta[k], training=True, eps=EPS
        )
        for k, z in enumerate(zs)
    )  # fmt: skip
    found = sum(row(a[k]) * z for k, z in enumerate(zs)) + row(b)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
    same, parts = node_coefficients(table, rows, weights, torch.arange(3), True)
    assert torch.equal(same[2], a)
    torch.testing.assert_close(parts, weights[:, None] * table[SHIFT, 1:], rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.sum(0), b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("each", [False, True], ids=["one gradient", "a gradient each"])
def test_gradients_are_those_of_batch_normalization(each):
    zs, weights = inputs().requires_grad_(), draws(3)
    grads = draws(*zs.shape, seed=5)
    grads = grads if each else grads[:1].expand(zs.shape)
    normalized = [
        w * torch.nn.functional.batch_norm(z, None, None, training=True, eps=EPS)
        for w, z in zip(weights, zs, strict=True)
    ]
    (wanted,) = torch.autograd.grad(normalized, zs, list(grads))
    z = zs.detach()
    mean, var = statistics_of(z)
    rstd = 1 / (var + EPS).sqrt()
    deviations = (z - mean[:, None, :, None, None]) * rstd[:, None, :, None, None]
    s0, s1 = grads.sum((1, 3, 4)), (grads * deviations).sum((1, 3, 4))
    table = torch.zeros(10, 4, dtype=torch.float64)
    rows = torch.tensor([[9, 1, 5], [2, 8, 3], [4, 6, 7]])
    gradient_coefficients(
        table, rows, weights[:, None] * rstd, mean, rstd, s0 if each else s0[0], s1, 5 * 3 * 2
    )
    p, q, r = (table[at] for at in rows)
    found = [row(p[k]) * grads[k] + row(q[k]) * z[k] + row(r[k]) for k in range(3)]
    torch.testing.assert_close(torch.stack(found), wanted, rtol=1e-11, atol=1e-12)


def test_rows_of_q_and_r_are_added_to():
    """A pool serves several nodes: each adds its part to one row of q and one of r."""
    values = [draws(1, 4, seed=seed) for seed in range(10)]
    apart, together = torch.zeros(6, 4, dtype=torch.float64), torch.zeros(6, 4, dtype=torch.float64)
    for number in range(2):
        of_call = (*values[5 * number : 5 * number + 5], 30)
        gradient_coefficients(apart, torch.tensor([[number], [2 + number], [4 + number]]), *of_call)
        gradient_coefficients(together, torch.tensor([[number], [2], [4]]), *of_call)
    assert torch.equal(together[:2], apart[:2])
    torch.testing.assert_close(together[2], apart[2] + apart[3], rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(together[4], apart[4] + apart[5], rtol=1e-15, atol=1e-15)


def test_a_count_of_a_group_is_a_tensor():
    values = [draws(2, 4, seed=seed) for seed in range(5)]
    rows = torch.tensor([[0, 1], [2, 3], [4, 5]])
    tables = [torch.zeros(6, 4, dtype=torch.float64) for _ in range(2)]
    gradient_coefficients(tables[0], rows, *values, 30)
    gradient_coefficients(tables[1], rows, *values, torch.tensor(30.0, dtype=torch.float64))
    assert torch.equal(*tables)
