"""Coefficients of normalized sums, by Triton, against their definitions; and whole networks."""

from __future__ import annotations

import copy

import pytest
import torch
from kernel_checks import error, normal, wide
from torch import Tensor

from ssfnas import kernels
from ssfnas.ops import backend, norm_coefficients
from ssfnas.ops.selection import primitive
from ssfnas.spaces import (
    DerivedNetwork,
    Genotype,
    ReferenceDerivedNetwork,
    ReferenceSupernet,
    Supernet,
)

# Rows and channels: one and several blocks of each, none of them full.
SIZES = pytest.mark.parametrize(
    ("count", "channels"), [(1, 1), (3, 4), (16, 16), (35, 16), (17, 64), (5, 130)]
)
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-13}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
EPS = 1e-5


def assert_right(found: Tensor, truth: Tensor) -> None:
    assert found.shape == truth.shape
    assert error(found, truth.cpu()) < TOLERANCES[found.dtype]


@DTYPES
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@SIZES
def test_statistics(device, rng, count, channels, affine, dtype):
    options = {"dtype": dtype, "device": device, "rng": rng}
    mean, var = normal((count, channels), **options), normal((count, channels), **options).square()
    weights = [normal((count, channels), **options) for _ in range(2 if affine else 0)]
    tables = [
        torch.full((5, count + 3, channels), 5.0, dtype=kind, device=where)
        for kind, where in ((dtype, device), (torch.float64, "cpu"))
    ]
    kernels.enter_statistics(tables[0], 2, mean, var, EPS, *weights)
    norm_coefficients.enter_statistics(tables[1], 2, *wide(mean, var), EPS, *wide(*weights))
    for found, truth in zip(*tables, strict=True):
        assert_right(found, truth)
    assert bool((tables[0][:, [0, 1, count + 2]] == 5).all())


@DTYPES
@pytest.mark.parametrize("separate", [False, True], ids=["b", "parts of b"])
@SIZES
def test_nodes(device, rng, count, channels, separate, dtype):
    options = {"dtype": dtype, "device": device, "rng": rng}
    table, weights = normal((5, count + 9, channels), **options), normal((count + 5,), **options)
    rows = torch.randperm(count + 9, generator=rng)[:count].to(device)
    places = torch.randperm(count + 5, generator=rng)[:count].to(device)
    found, b = kernels.node_coefficients(table, rows, weights, places, separate)
    truth, true_b = norm_coefficients.node_coefficients(
        table.double().cpu(), rows.cpu(), weights.double().cpu(), places.cpu(), separate
    )
    assert_right(found, truth)
    assert_right(b, true_b)


@DTYPES
@pytest.mark.parametrize("each", [False, True], ids=["one gradient", "a gradient each"])
@SIZES
def test_gradients(device, rng, count, channels, each, dtype):
    options = {"dtype": dtype, "device": device, "rng": rng}
    table = normal((3 * count + 4, channels), **options)
    rows = torch.randperm(3 * count + 4, generator=rng)[: 3 * count].view(3, count).to(device)
    a, mean, rstd, s1 = (normal((count, channels), **options) for _ in range(4))
    s0 = normal((count, channels), **options) if each else normal((channels,), **options)
    values = (a, mean, rstd, s0, s1)
    truth = table.double().cpu().clone()
    norm_coefficients.gradient_coefficients(
        truth, rows.cpu(), *(value.double().cpu() for value in values), 77
    )
    copies = [table.clone() for _ in range(2)]
    kernels.gradient_coefficients(copies[0], rows, *values, 77)
    kernels.gradient_coefficients(
        copies[1], rows, *values, torch.tensor(77.0, dtype=dtype, device=device)
    )
    for found in copies:
        assert_right(found, truth)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_supernet_of_triton_is_the_reference(device, rng, nodes):
    """Sums and coefficients by Triton, candidates by PyTorch: results and all gradients."""
    options = {"num_classes": 3, "channels": 2, "layers": 3, "nodes": nodes}
    reference = ReferenceSupernet(**options, generator=rng).to(device, torch.float64)
    fast = Supernet(**options).to(device, torch.float64)
    fast.load_state_dict(copy.deepcopy(reference.state_dict()))
    x = normal((2, 3, 4, 4), torch.float64, device, rng)
    found = []
    for net, name in ((reference, "reference"), (fast, "triton")):
        with backend(name):
            (net(x).square().sum()).backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    for wanted, value in zip(*found, strict=True):
        distance = (value - wanted).double().norm()
        assert distance <= 1e-10 * max(float(wanted.double().norm()), 1e-3)


def test_a_derived_network_of_triton_is_the_reference(device, rng):
    """BatchNorms with weights, and dropped paths."""
    options = {"num_classes": 3, "channels": 2, "layers": 3}
    genotype = Genotype.load("DARTS_V2")
    reference = ReferenceDerivedNetwork(genotype, **options, generator=rng)
    fast = DerivedNetwork(genotype, **options)
    for parameter in reference.parameters():
        if parameter.dim() == 1:
            parameter.data = normal(parameter.shape, parameter.dtype, "cpu", rng)
    fast.load_state_dict(copy.deepcopy(reference.state_dict()))
    x = normal((3, 3, 4, 4), torch.float64, device, rng)
    found = []
    for net, name in ((reference, "reference"), (fast, "triton")):
        net.to(device, torch.float64).set_drop_path(0.4, seed=2, step=7)
        with backend(name):
            net(x).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    for wanted, value in zip(*found, strict=True):
        distance = (value - wanted).double().norm()
        assert distance <= 1e-10 * max(float(wanted.double().norm()), 1e-3)


def test_triton_has_the_primitives():
    for name in ("enter_statistics", "node_coefficients", "gradient_coefficients"):
        assert primitive("triton", name) is getattr(kernels, name)
