"""out = sum_k w_k x_k and its gradients, by Triton, against their definitions."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, accumulator, assert_close, normal, wide
from torch import Tensor

from ssfnas.kernels import mixed_sum_backward, mixed_sum_forward

SHAPES = [(1,), (7,), (33, 5), (1000,), (2, 3, 7, 9), (1, 5, 33, 33)]


def definition(xs: list[Tensor], weights: Tensor) -> Tensor:
    return sum(w.to(x.dtype) * x for x, w in zip(xs, weights, strict=True))


def gradients(grad: Tensor, xs: list[Tensor], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    dxs = [w.to(grad.dtype) * grad for w in weights]
    dtype = accumulator(grad.dtype)
    return dxs, torch.stack([(grad.to(dtype) * x.to(dtype)).sum() for x in xs])


def check(grad: Tensor, xs: list[Tensor], weights: Tensor) -> None:
    out = mixed_sum_forward(xs, weights)
    assert out.dtype == xs[0].dtype
    truth_xs, (truth_w, truth_grad) = wide(*xs), wide(weights, grad)
    assert_close(out, definition(xs, weights), definition(truth_xs, truth_w))
    dxs, dw = mixed_sum_backward(grad, xs, weights, [True] * len(xs), True)
    plain_dxs, plain_dw = gradients(grad, xs, weights)
    true_dxs, true_dw = gradients(truth_grad, truth_xs, truth_w)
    for dx, plain, truth in zip(dxs, plain_dxs, true_dxs, strict=True):
        assert_close(dx, plain, truth)
    assert dw.dtype == accumulator(grad.dtype)
    # A dot product may come out near zero: compared with the norms of its factors.
    bound = 4 * torch.finfo(dw.dtype).eps * torch.stack([x.norm() for x in truth_xs])
    assert ((dw.double().cpu() - true_dw).abs() <= bound * truth_grad.norm()).all()
    assert plain_dw.shape == dw.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_definition(device, rng, shape, dtype):
    count = 3
    xs = [normal(shape, dtype, device, rng) for _ in range(count)]
    weights = normal((count,), accumulator(xs[0]), device, rng)
    check(normal(shape, dtype, device, rng), xs, weights)


@pytest.mark.parametrize("count", [1, 2, 7, 35])
def test_any_number_of_inputs(device, rng, count):
    xs = [normal((2, 4, 5, 5), torch.float32, device, rng) for _ in range(count)]
    check(xs[0] + 1, xs, normal((count,), torch.float32, device, rng))


def test_several_programs_reduce_to_one_sum(device, rng):
    xs = [normal((9001,), torch.float32, device, rng) for _ in range(5)]
    check(xs[1] - 1, xs, normal((5,), torch.float32, device, rng))


@pytest.mark.slow
def test_more_programs_than_one_step_of_the_second_stage(device, rng):
    xs = [normal((1_300_003,), torch.bfloat16, device, rng) for _ in range(2)]
    check(normal((1_300_003,), torch.bfloat16, device, rng), xs, torch.ones(2, device=device))


def test_keeps_the_first_layout(device, rng):
    shape = (2, 6, 5, 7)
    last = normal(shape, torch.float32, device, rng, channels_last=True)
    first = normal(shape, torch.float32, device, rng)
    weights = normal((2,), torch.float32, device, rng)
    for xs in ([last, first], [first, last]):
        assert mixed_sum_forward(xs, weights).stride() == xs[0].stride()
        dxs, _ = mixed_sum_backward(first, xs, weights, [True, True], True)
        assert [dx.stride() for dx in dxs] == [xs[0].stride()] * 2
        check(first, xs, weights)


def test_views(device, rng):
    """Slices of one buffer at odd places, strided views, and an expanded gradient."""
    buffer = normal((3, 2, 3, 5, 7), torch.float32, device, rng)
    odd = normal((2 * 3 * 5 * 7 + 1,), torch.float32, device, rng)[1:].view(2, 3, 5, 7)
    strided = normal((2, 6, 5, 7), torch.float32, device, rng)[:, ::2]
    xs = [buffer[0], buffer[2], odd, strided]
    grad = torch.full((), 0.5, device=device).expand(2, 3, 5, 7)
    weights = normal((8,), torch.float32, device, rng)[::2]
    check(grad, xs, weights)
    check(grad, [strided, odd], weights[:2])


def test_only_wanted_gradients(device, rng):
    xs = [normal((40,), torch.float32, device, rng) for _ in range(3)]
    weights = normal((3,), torch.float32, device, rng)
    grad = normal((40,), torch.float32, device, rng)
    everything, dw = mixed_sum_backward(grad, xs, weights, [True] * 3, True)
    some, none = mixed_sum_backward(grad, xs, weights, [True, False, True], False)
    assert some[1] is None
    assert none is None
    assert torch.equal(some[0], everything[0])
    assert torch.equal(some[2], everything[2])
    unwanted, only = mixed_sum_backward(grad, xs, weights, [False] * 3, True)
    assert unwanted == [None] * 3
    assert torch.equal(only, dw)
    assert mixed_sum_backward(grad, xs, weights, [False] * 3, False) == ([None] * 3, None)


def test_inputs_are_not_read_without_need(device, rng):
    grad = normal((40,), torch.float32, device, rng)
    xs = [torch.full((40,), float("nan"), device=device)] * 2
    weights = torch.tensor([2.0, 3.0], device=device)
    dxs, _ = mixed_sum_backward(grad, xs, weights, [True, True], False)
    assert torch.equal(dxs[0], 2 * grad)
    assert torch.equal(dxs[1], 3 * grad)


def test_empty(device):
    xs = [torch.zeros(0, 3, 4, 4, device=device) for _ in range(2)]
    weights = torch.ones(2, device=device)
    assert mixed_sum_forward(xs, weights).shape == (0, 3, 4, 4)
    dxs, dw = mixed_sum_backward(xs[0], xs, weights, [True, False], True)
    assert dxs[0].shape == (0, 3, 4, 4)
    assert dxs[1] is None
    assert torch.equal(dw, torch.zeros(2, device=device))
