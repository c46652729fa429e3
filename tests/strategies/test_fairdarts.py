"""The zero-one loss and its gradient against their formulas."""

from __future__ import annotations

import pytest
import torch

from ssfnas.strategies.fairdarts import zero_one_loss


def tables():
    generator = torch.Generator().manual_seed(0)
    return [
        (3 * torch.randn(14, 7, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    ]


@pytest.mark.parametrize("form", ["l1", "l2"])
def test_value_and_gradient(form):
    alphas = tables()
    loss = zero_one_loss(alphas, form)
    z = [1 / (1 + torch.exp(-alpha.detach())) for alpha in alphas]
    count = sum(part.numel() for part in z)
    parts = [(part - 0.5).abs() if form == "l1" else (part - 0.5) ** 2 for part in z]
    assert loss.item() == pytest.approx(-sum(p.sum().item() for p in parts) / count, rel=1e-14)
    for part, found in zip(z, torch.autograd.grad(loss, alphas), strict=True):
        slope = (part - 0.5).sign() if form == "l1" else 2 * (part - 0.5)
        assert torch.allclose(found, -slope * part * (1 - part) / count, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("form", "lowest"), [("l1", -0.5), ("l2", -0.25)])
def test_range(form, lowest):
    undecided = [torch.zeros(3, 2, requires_grad=True)]
    decided = [torch.tensor([[-1e4, 1e4]], requires_grad=True)]
    assert zero_one_loss(undecided, form).item() == 0
    assert zero_one_loss(decided, form).item() == pytest.approx(lowest)
    for alphas in (undecided, decided):
        (gradient,) = torch.autograd.grad(zero_one_loss(alphas, form), alphas)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_forms_that_are_none():
    with pytest.raises(ValueError, match="'l3'"):
        zero_one_loss(tables(), "l3")
