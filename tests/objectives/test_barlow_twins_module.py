from __future__ import annotations

import copy

import pytest
import torch
from objectives_of_a_rank import draw
from torch import nn
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.objectives import BarlowTwins, Projector, draw_mixture, mixed_barlow_twins
from ssfnas.ops import barlow_twins_loss
from ssfnas.ops.collectives import SharedGroup


def as_lightly_computes(z_a, z_b, lambda_param):
    """The loss of lightly 1.5: batch_norm of each view, and sums over C."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (z_a, z_b))
    c = a.T @ b / len(a)
    on = (c.diagonal() - 1).pow(2).sum()
    return on + lambda_param * (c.pow(2).sum() - c.diagonal().pow(2).sum())


@pytest.mark.parametrize("shape", [(16, 5), (6, 20)])
def test_stands_in_for_lightlys_loss(shape):
    z = [draw(*shape, seed=k).requires_grad_() for k in (1, 2)]
    for module in (BarlowTwins(5e-3), BarlowTwins(lambda_param=5e-3), BarlowTwins(lambd=5e-3)):
        expected = as_lightly_computes(*z, 5e-3)
        found = module(*z)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad(found, z), torch.autograd.grad(expected, z), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_lightly_itself_where_it_is_installed():
    loss = pytest.importorskip("lightly.loss")
    z = [draw(8, 12, seed=k) for k in (1, 2)]
    torch.testing.assert_close(BarlowTwins(5e-3)(*z), loss.BarlowTwinsLoss(5e-3)(*z))


def test_settings_reach_the_function():
    z = [draw(8, 6, seed=k) for k in (1, 2)]
    module = BarlowTwins(0.2, scale=0.5, eps=0.1, method="primal")
    expected = barlow_twins_loss(*z, lambd=0.2, scale=0.5, eps=0.1)
    torch.testing.assert_close(module(*z), expected)
    assert BarlowTwins().lambd == 0.0051
    assert BarlowTwins(0.0).lambd == 0.0
    assert "scale=0.5" in repr(module)
    with pytest.raises(RequestError, match="lambda_param"):
        BarlowTwins(0.1, lambda_param=0.1)


def test_copies_share_the_group_that_cannot_be_copied():
    class Uncopyable:
        def __deepcopy__(self, memo):
            raise AssertionError("a process group was copied")

    module = BarlowTwins()
    group = Uncopyable()
    module._group = SharedGroup(group)
    assert copy.deepcopy(module).group is group
    duplicate = copy.deepcopy(module)
    duplicate.group = None
    assert module.group is group


def test_projector_is_the_papers():
    draws = torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    projector = Projector(7, (5, 6, 4), generator=draws)
    assert torch.equal(torch.get_rng_state(), before)
    kinds = [type(layer) for layer in projector]
    assert [issubclass(kind, nn.Linear) for kind in kinds] == [True, False, False] * 2 + [True]
    assert all(layer.bias is None for layer in projector if isinstance(layer, nn.Linear))
    assert projector[-1].out_features == 4
    x = draw(9, 7, seed=2)
    projector.double()
    h = x
    for layer in (0, 3):
        h = F.linear(h, projector[layer].weight)
        h = ((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(projector(x), F.linear(h, projector[6].weight))
    again = Projector(7, (5, 6, 4), generator=torch.Generator().manual_seed(1)).double()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), projector.parameters()))  # noqa: B905
    assert len(Projector(7, (5,))) == 1
    with pytest.raises(RequestError, match="no layers"):
        Projector(7, ())


def correlation(u, v):
    u, v = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (u, v))
    return u.T @ v / len(u)


@pytest.mark.parametrize("width", [3, 40])
def test_mixed_term_is_the_papers(width):
    n = 6
    weight = draw(width, 4, seed=1).requires_grad_()
    x = [draw(n, 4, seed=k) for k in (2, 3)]
    seen = []

    def embed(images):
        seen.append(images)
        return F.linear(images, weight).tanh()

    z = [F.linear(images, weight).tanh() for images in x]
    found = mixed_barlow_twins(embed, x, z, draw_mixture(5, n), lambd=0.3)
    # Read a and the permutation off the mixture: m - x2[p] = a (x1 - x2[p]).
    (mixed,) = seen
    order, shares = [], []
    for i in range(n):
        for j in range(n):
            difference = x[0][i] - x[1][j]
            share = ((mixed[i] - x[1][j]) / difference).mean()
            if torch.allclose(mixed[i], x[1][j] + share * difference):
                order.append(j)
                shares.append(float(share))
    assert sorted(order) == list(range(n))
    a = shares[0]
    assert shares == pytest.approx([a] * n)
    assert 0 < a < 1

    m = F.linear(mixed, weight).tanh()
    normal = [(v - v.mean(0)) / (v.var(0, correction=0) + 1e-5).sqrt() for v in z]
    expected = 0.0
    for v in normal:
        target = (a * normal[0].T @ v + (1 - a) * normal[1][order].T @ v) / n
        standard = (m - m.mean(0)) / (m.var(0, correction=0) + 1e-5).sqrt()
        expected = expected + 0.3 * (standard.T @ v / n - target).square().sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (found, expected))
    )


def test_mixture_is_a_function_of_the_seed():
    (first, order), (again, same), (other, another) = (draw_mixture(seed, 20) for seed in (5, 5, 6))
    assert first == again != other
    assert torch.equal(order, same)
    assert not torch.equal(order, another)
