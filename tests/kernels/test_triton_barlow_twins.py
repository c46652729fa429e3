"""The Barlow Twins loss and its gradients, by Triton, against their definition."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, accumulator, assert_close, error, normal, wide
from torch import Tensor

from ssfnas.kernels import barlow_twins_backward, barlow_twins_forward

LAMBD, EPS = 0.0051, 1e-5
FORMS = pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])


def definition(z1: Tensor, z2: Tensor, eps: float = EPS) -> Tensor:
    z1, z2 = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in (z1, z2))
    c = z1.T @ z2 / len(z1)
    diagonal = c.diagonal()
    return (diagonal - 1).square().sum() + LAMBD * (c - diagonal.diag()).square().sum()


def with_gradients(z1: Tensor, z2: Tensor, factor: float) -> list[Tensor]:
    leaves = [z.detach().clone().requires_grad_() for z in (z1, z2)]
    loss = definition(*leaves)
    (factor * loss).backward()
    return [loss, *(leaf.grad for leaf in leaves)]


def views(n, d, dtype, device, rng) -> tuple[Tensor, Tensor]:
    z1 = normal((n, d), torch.float64, device, rng)
    z2 = z1 + normal((n, d), torch.float64, device, rng)
    return (2 * z1 + 1).to(dtype), z2.to(dtype)


def check(z1: Tensor, z2: Tensor, dual: bool) -> None:
    loss, saved = barlow_twins_forward(z1, z2, LAMBD, EPS, dual)
    assert loss.shape == ()
    assert loss.dtype == accumulator(z1.dtype)
    found = [loss, *barlow_twins_backward(saved, LAMBD, torch.full((), 3.0, device=z1.device))]
    assert found[1].dtype == found[2].dtype == z1.dtype
    # Plain PyTorch computes in float32 too, and rounds the gradients to the dtype of the inputs.
    plain = with_gradients(z1.to(loss.dtype), z2.to(loss.dtype), 3.0)
    plain = [plain[0], *(x.to(z1.dtype) for x in plain[1:])]
    truth = with_gradients(*wide(z1, z2), 3.0)
    for one, other, exact in zip(found, plain, truth, strict=True):
        assert_close(one, other, exact.detach(), length=sum(z1.shape))


@pytest.mark.parametrize("size", [(7, 1), (5, 3), (7, 33), (33, 70), (70, 66)], ids=str)
@FORMS
def test_agrees_with_definition(device, rng, size, dual):
    check(*views(*size, torch.float32, device, rng), dual)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@FORMS
def test_other_dtypes(device, rng, dtype, dual):
    check(*views(33, 17, dtype, device, rng), dual)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(130, 257), (20, 600)], ids=str)
@FORMS
def test_large(device, rng, size, dtype, dual):
    check(*views(*size, dtype, device, rng), dual)


@FORMS
def test_unmoved_by_scale_and_shift_of_a_view(device, rng, dual):
    z1, z2 = views(20, 9, torch.float64, device, rng)
    loss, _ = barlow_twins_forward(z1, z2, LAMBD, 0.0, dual)
    moved, _ = barlow_twins_forward(z1, 2 * z2 + 4, LAMBD, 0.0, dual)
    assert error(moved, loss.cpu()) < 1e-12


@FORMS
def test_low_rank_features(device, rng, dual):
    """Strongly correlated columns: large off-diagonal sums beside the diagonal's."""
    z1, z2 = (
        normal((24, 3), torch.float64, device, rng) @ normal((3, 40), torch.float64, device, rng)
        for _ in range(2)
    )
    check((z1 + 1e-3 * z2).float(), (z2 + 1e-3 * z1).float(), dual)


@FORMS
def test_constant_columns(device, rng, dual):
    """Standardized to zero, with a zero gradient but for what eps lets through."""
    z1, z2 = views(12, 5, torch.float32, device, rng)
    z1[:, 2] = 3.0
    check(z1, z2, dual)


def test_strided_inputs(device, rng):
    z = normal((9, 14), torch.float32, device, rng)
    check(z[:, :7], z[:, 7:], dual=True)
    check(z[:, ::2], z[:, 1::2], dual=False)
