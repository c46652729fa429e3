"""What can only be seen on a GPU: graphs, streams, and that the same call gives the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssfnas import kernels

pytestmark = pytest.mark.gpu


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator(device="cuda").manual_seed(7)


def mixed_sum(rng: torch.Generator) -> tuple[list[Tensor], Callable[[], list[Tensor]]]:
    xs = [torch.randn(32, 16, 33, 31, device="cuda", generator=rng) for _ in range(9)]
    weights = torch.randn(9, device="cuda", generator=rng)

    def call() -> list[Tensor]:
        out = kernels.mixed_sum_forward(xs, weights)
        dxs, dw = kernels.mixed_sum_backward(out, xs, weights, [True] * 9, True)
        return [out, *dxs, dw]

    return xs, call


def mixed_norm_sum(rng: torch.Generator) -> tuple[list[Tensor], Callable[[], list[Tensor]]]:
    zs = [torch.randn(32, 16, 33, 31, device="cuda", generator=rng) for _ in range(9)]
    zs = [z.to(torch.bfloat16).to(memory_format=torch.channels_last) for z in zs]
    factors = torch.rand(9, 32, device="cuda", generator=rng)

    def call() -> list[Tensor]:
        mean, var = kernels.norm_statistics(zs, [True] * 9)
        out = kernels.norm_sum_forward(zs, var, mean[0])
        sums = kernels.norm_sum_reduce(out, zs, mean, var)
        dzs = kernels.norm_sum_apply(out, zs, mean, var, sums[1], [True] * 9)
        of_images = kernels.norm_sum_forward(zs, var, mean, factors)
        sums_of_images = kernels.norm_sum_reduce(out, zs, mean, var, factors)
        return [mean, var, out, *sums, *dzs, of_images, *sums_of_images]

    return zs, call


def barlow_twins(rng: torch.Generator) -> tuple[list[Tensor], Callable[[], list[Tensor]]]:
    z1, z2 = (torch.randn(96, 200, device="cuda", generator=rng) for _ in range(2))

    def call() -> list[Tensor]:
        results = []
        for dual in (True, False):
            loss, saved = kernels.barlow_twins_forward(z1, z2, 0.0051, 1e-5, dual)
            results += [loss, *kernels.barlow_twins_backward(saved, 0.0051, loss)]
        return results

    return [z1, z2], call


CASES = pytest.mark.parametrize("case", [mixed_sum, mixed_norm_sum, barlow_twins])


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@CASES
def test_same_call_same_bits(case, rng):
    _, call = case(rng)
    first = call()
    assert all(same(call(), first) for _ in range(5))


@CASES
def test_captured_and_replayed(case, rng):
    """No synchronization with the host, and fresh inputs are read at each replay."""
    inputs, call = case(rng)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for x in inputs:
        x.mul_(0.5).add_(0.25)
    graph.replay()
    torch.cuda.synchronize()
    assert same(captured, call())


@CASES
def test_on_a_side_stream(case, rng):
    _, call = case(rng)
    expected = call()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = call()
    stream.synchronize()
    assert same(found, expected)


def test_on_another_device_than_the_current(rng):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    xs = [torch.ones(100, device="cuda:1")] * 3
    out = kernels.mixed_sum_forward(xs, torch.ones(3, device="cuda:1"))
    assert torch.equal(out.cpu(), torch.full((100,), 3.0))
