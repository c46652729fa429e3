"""Relaxations against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from ssfnas.spaces import RELAXATIONS


@pytest.fixture
def alpha():
    draws = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, generator=draws, dtype=torch.float64, requires_grad=True)


def test_softmax_shares_one_on_each_edge(alpha):
    weights = RELAXATIONS.get("softmax")().weights(alpha)
    powers = torch.tensor([[math.exp(a) for a in row] for row in alpha.tolist()]).double()
    torch.testing.assert_close(weights, powers / powers.sum(1, keepdim=True))
    cotangent = torch.arange(15.0).double().view(5, 3)
    (grad,) = torch.autograd.grad((weights * cotangent).sum(), alpha)
    wanted = weights * (cotangent - (weights * cotangent).sum(1, keepdim=True))
    torch.testing.assert_close(grad, wanted)


def test_sigmoid_gives_each_operation_its_own(alpha):
    weights = RELAXATIONS.get("sigmoid")().weights(alpha)
    wanted = [[1 / (1 + math.exp(-a)) for a in row] for row in alpha.tolist()]
    torch.testing.assert_close(weights, torch.tensor(wanted).double())
    (grad,) = torch.autograd.grad(weights.sum(), alpha)
    torch.testing.assert_close(grad, weights * (1 - weights))


def test_first_alphas():
    generator = torch.Generator().manual_seed(3)
    first = RELAXATIONS.get("softmax")().init(14, 8, generator)
    again = RELAXATIONS.get("softmax")().init(14, 8, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert 0.8e-3 < first.std() < 1.2e-3
    assert torch.equal(RELAXATIONS.get("sigmoid")().init(14, 7, None), torch.zeros(14, 7))


def test_entropy_is_that_of_the_choice():
    softmax, sigmoid = RELAXATIONS.get("softmax")(), RELAXATIONS.get("sigmoid")()
    assert softmax.entropy(torch.full((4, 8), 1 / 8)).item() == pytest.approx(math.log(8))
    assert softmax.entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).item() == pytest.approx(
        math.log(2) / 2
    )
    assert sigmoid.entropy(torch.tensor([[0.5, 1.0], [0.0, 0.5]])).item() == pytest.approx(
        math.log(2) / 2
    )


def test_half_precision_alphas_give_fp32_weights():
    for name in RELAXATIONS:
        assert RELAXATIONS.get(name)().weights(torch.zeros(2, 3).bfloat16()).dtype == torch.float32
