"""The top eigenvalue against the eigenvalues of a Hessian that is written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssfnas.errors import NumericalError
from ssfnas.ops import backend
from ssfnas.spaces import ReferenceSupernet, Supernet, frozen_statistics
from ssfnas.strategies.hessian import hessian_top_eigenvalue, hessian_vector_product


def dominant(matrix):
    values = torch.linalg.eigvalsh(matrix)
    return float(values[values.abs().argmax()])


@pytest.mark.parametrize("sign", [1, -1])
def test_quadratic_forms_of_either_sign(sign):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = sign * root @ root.T
    x = nn.Parameter(torch.randn(12, generator=generator, dtype=torch.float64))
    found = hessian_top_eigenvalue(
        lambda: x @ matrix @ x / 2, [x], tolerance=1e-12, generator=generator
    )
    assert found == pytest.approx(dominant(matrix), rel=1e-9)


def test_several_tensors_and_one_without_part():
    generator = torch.Generator().manual_seed(1)
    a, b, idle = (
        nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64)) for _ in range(3)
    )

    def loss_of(vector):
        return (vector[:4].exp() * vector[4:].sin()).sum() + vector.square().prod()

    exact = torch.autograd.functional.hessian(loss_of, torch.cat([a, b]).detach())
    found = hessian_top_eigenvalue(
        lambda: loss_of(torch.cat([a, b])), [a, b, idle], tolerance=1e-12, generator=generator
    )
    assert found == pytest.approx(dominant(exact), rel=1e-8)


@pytest.mark.parametrize("form", [ReferenceSupernet, Supernet])
def test_a_supernet(form):
    net = form(
        3, channels=2, layers=3, nodes=1, generator=torch.Generator().manual_seed(2)
    ).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    before = copy.deepcopy(net.state_dict())
    alphas = net.alphas()
    size = sum(alpha.numel() for alpha in alphas)
    with frozen_statistics(net), backend("reference"):

        def loss():
            return F.cross_entropy(net(x), labels)

        gradients = torch.autograd.grad(loss(), alphas, create_graph=True)
        exact = torch.stack(
            [hessian_vector_product(gradients, alphas, row) for row in torch.eye(size).double()]
        )
        found = hessian_top_eigenvalue(
            loss, alphas, iterations=size, tolerance=1e-12, generator=generator
        )
    assert torch.allclose(exact, exact.T, atol=1e-10)
    assert found == pytest.approx(dominant(exact), rel=1e-6)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_hessian_vector_products_of_a_function_with_kinks_are_exact():
    x = nn.Parameter(torch.tensor([1e-9, 2.0, -3.0], dtype=torch.float64))
    gradients = torch.autograd.grad(x.relu().pow(3).sum(), [x], create_graph=True)
    ones = torch.ones(3, dtype=torch.float64)
    product = hessian_vector_product(gradients, [x], ones)
    assert torch.allclose(product, torch.tensor([6e-9, 12.0, 0.0], dtype=torch.float64))


def test_one_seed_is_one_result():
    x = nn.Parameter(torch.linspace(-1, 1, 50, dtype=torch.float64))

    def once(seed):
        generator = torch.Generator().manual_seed(seed)
        return hessian_top_eigenvalue(
            lambda: x.sin().prod() + x.pow(4).sum(), [x], iterations=3, generator=generator
        )

    assert once(4) == once(4)
    assert once(4) != once(5)


def test_a_linear_loss_has_no_curvature():
    x = nn.Parameter(torch.ones(3))
    assert hessian_top_eigenvalue(lambda: x.sum(), [x]) == 0


def test_what_is_not_finite_is_said():
    x = nn.Parameter(torch.zeros(3))
    with pytest.raises(NumericalError, match="not finite"):
        hessian_top_eigenvalue(lambda: x.sqrt().sum(), [x])
