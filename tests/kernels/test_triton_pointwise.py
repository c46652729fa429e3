"""A cell's entry by matrix products and Triton, against its definition."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, accumulator, assert_close, normal, wide

from ssfnas.kernels import pointwise_backward, pointwise_forward
from ssfnas.ops import torch_pointwise

# Images of a part, parts, outputs; several tiles of one and of many channels.
SIZES = [
    ((2, 1, 1, 1), 1, 1),
    ((2, 3, 7, 5), 2, 16),
    ((3, 16, 8, 8), 4, 16),
    ((1, 17, 33, 31), 1, 33),
]
BOTH_WALKS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


class Arguments:
    def __init__(self, shape, outputs, dtype, device, rng, channels_last=True, parts=1):
        options = {"dtype": dtype, "device": device, "rng": rng, "channels_last": channels_last}
        results = (shape[0], outputs, *shape[2:])
        self.xs = [normal(shape, **options) for _ in range(parts)]
        self.z, self.grad = normal(results, **options), normal(results, **options)
        sums = accumulator(dtype)
        inputs = parts * shape[1]
        self.weight = normal((outputs, inputs, 1, 1), sums, device, rng) / inputs**0.5
        self.p, self.q, self.r = (normal((1, outputs), sums, device, rng) for _ in range(3))

    def double(self):
        other = object.__new__(Arguments)
        for name, value in vars(self).items():
            setattr(other, name, wide(*value) if name == "xs" else wide(value)[0])
        return other

    def backward(self, function, **options):
        of_grad = (self.p, self.q, self.r)
        return function(self.xs, self.z, self.grad, *of_grad, self.weight, **options)


@pytest.mark.parametrize(("shape", "parts", "outputs"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@BOTH_WALKS
def test_agrees_with_definition(device, rng, shape, parts, outputs, dtype, channels_last):
    given = Arguments(shape, outputs, dtype, device, rng, channels_last, parts)
    exact, places = given.double(), shape[0] * shape[2] * shape[3]
    found = pointwise_forward(given.xs, given.weight)
    plain = torch_pointwise.pointwise_forward(given.xs, given.weight)
    truth = torch_pointwise.pointwise_forward(exact.xs, exact.weight)
    assert [value.dtype for value in found] == [value.dtype for value in plain]
    assert_close(found[0], plain[0], truth[0], parts * shape[1])
    # Statistics are of the results as they are stored.
    z = found[0].double().cpu().transpose(0, 1).flatten(1)
    mean, var = found[1].double().cpu()[0], found[2].double().cpu()[0]
    allowed = 4 * places**0.5 * torch.finfo(accumulator(dtype)).eps
    assert ((mean - z.mean(1)).abs() <= allowed * z.abs().mean(1)).all()
    assert ((var - z.var(1, correction=0)).abs() <= allowed * z.square().mean(1)).all()

    results = []
    for values, function in (
        (given, pointwise_backward),
        (given, torch_pointwise.pointwise_backward),
        (exact, torch_pointwise.pointwise_backward),
    ):
        dxs, d_weight = values.backward(function)
        results.append([*dxs, d_weight])
    for value, of_pytorch, exactly in zip(*results, strict=True):
        assert value.dtype == of_pytorch.dtype
        if device == "cpu" and dtype == torch.bfloat16:
            # The interpreter cuts bfloat16 off, and so the gradient that both are made of.
            distance = (value.double() - exactly).norm()
            assert distance <= 2 * torch.finfo(dtype).eps * exactly.norm()
        else:
            assert_close(value, of_pytorch, exactly, places)


@BOTH_WALKS
def test_only_what_is_asked_for(device, rng, channels_last):
    given = Arguments((2, 5, 4, 3), 7, torch.float64, device, rng, channels_last)
    dxs, d_weight = given.backward(torch_pointwise.pointwise_backward)
    no_x = given.backward(pointwise_backward, needs_x=False)
    no_weight = given.backward(pointwise_backward, needs_weight=False)
    assert no_x[0] is None
    assert no_weight[1] is None
    torch.testing.assert_close(no_x[1], d_weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(no_weight[0], dxs, rtol=1e-12, atol=1e-12)


def test_coefficients_that_are_none_leave_results_unread(device, rng):
    given = Arguments((2, 5, 4, 3), 7, torch.float64, device, rng)
    given.q, given.r = torch.zeros_like(given.q), torch.zeros_like(given.r)
    truth = given.backward(torch_pointwise.pointwise_backward)
    given.q = given.r = None
    given.z.fill_(float("nan"))
    for value, expected in zip(given.backward(pointwise_backward), truth, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_nan_stays(device, rng):
    x = Arguments((1, 4, 3, 3), 2, torch.float32, device, rng).xs[0]
    x[0, 1, 1, 1] = float("nan")
    z, _, _ = pointwise_forward([x], torch.ones(2, 4, 1, 1, device=device))
    assert z[0, :, 1, 1].isnan().all()
    assert int(z.isnan().sum()) == 2


def test_images_without_pixels(device):
    x, grad = torch.zeros(0, 4, 3, 3, device=device), torch.zeros(0, 2, 3, 3, device=device)
    weight, row = torch.ones(2, 4, 1, 1, device=device), torch.ones(1, 2, device=device)
    z, mean, var = pointwise_forward([x], weight)
    assert z.shape == (0, 2, 3, 3)
    assert mean.isnan().all()
    assert var.isnan().all()
    (dx,), d_weight = pointwise_backward([x], z, grad, row, row, row, weight)
    assert dx.shape == x.shape
    assert torch.equal(d_weight, torch.zeros_like(weight))
