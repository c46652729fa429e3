"""A cell's entry, ReLU and a 1x1 convolution, against autograd in float64, on every backend."""

from __future__ import annotations

import pytest
import torch
from op_checks import BACKENDS, DTYPES, assert_as_exact, draw
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator
from ssfnas.ops import backend, primitives, torch_pointwise
from ssfnas.ops.selection import primitive, why_unavailable, why_unsupported

# Of all inputs, how many tensors they are, and channels of the output.
SHAPES = (((2, 1, 1, 1), 1, 1), ((2, 3, 7, 5), 1, 16), ((3, 64, 8, 8), 4, 16),
          ((2, 36, 5, 9), 3, 20), ((1, 34, 33, 31), 2, 33), ((2, 144, 6, 6), 4, 36))  # fmt: skip


@pytest.fixture(params=BACKENDS)
def both(request):
    """Both functions of a backend."""
    reason = why_unsupported(request.param, "pointwise", [torch.zeros(1, 1, 1, 1)])
    if reason is not None:
        pytest.skip(reason)
    return [primitive(request.param, f"pointwise_{way}") for way in ("forward", "backward")]


def arguments(shape, outputs, dtype=torch.float64):
    n, inputs, h, w = shape
    wide = accumulator(dtype)
    nhwc = {"memory_format": torch.channels_last}
    x = draw(*shape, seed=1, dtype=dtype).contiguous(**nhwc)
    grad = draw(n, outputs, h, w, seed=2, dtype=dtype).contiguous(**nhwc)
    weight = draw(outputs, inputs, 1, 1, seed=3).to(wide) / inputs**0.5
    return x, grad, weight, *(draw(1, outputs, seed=4 + k).to(wide) for k in range(3))


def parts_of(x, count):
    """Tensors side by side."""
    nhwc = {"memory_format": torch.channels_last}
    return [part.contiguous(**nhwc) for part in x.tensor_split(count, dim=1)]


def run(both, parts, x, grad, weight, p, q, r):
    xs = parts_of(x, parts)
    z, mean, var = both[0](xs, weight)
    dxs, dw = both[1](xs, z, grad, p, q, r, weight)
    return [z, mean, var, torch.cat(dxs, dim=1), dw]


def by_autograd(x, grad, weight, p, q, r):
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    z = torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], F.relu(x))
    p, q, r = (row.double().view(1, -1, 1, 1) for row in (p, q, r))
    dx, dw = torch.autograd.grad(z, (x, weight), p * grad.double() + q * z.detach() + r)
    flat = z.detach().transpose(0, 1).flatten(1)
    return [z.detach(), flat.mean(1)[None], flat.var(1, correction=0)[None], dx, dw]


@pytest.mark.parametrize(("shape", "parts", "outputs"), SHAPES)
def test_is_what_autograd_says(both, shape, parts, outputs):
    given = arguments(shape, outputs)
    for found, wanted in zip(run(both, parts, *given), by_autograd(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_less_exact_than_pytorch_in_that_dtype(both, dtype):
    if dtype == torch.bfloat16 and both[0] is primitive("triton", "pointwise_forward"):
        pytest.skip("Triton's interpreter cuts bfloat16 off where a GPU rounds to nearest")
    plain = torch_pointwise.pointwise_forward, torch_pointwise.pointwise_backward
    for shape, parts, outputs in SHAPES:
        given = arguments(shape, outputs, dtype)
        truth = by_autograd(*given)
        for values in zip(run(both, parts, *given), run(plain, parts, *given), truth, strict=True):
            assert values[0].dtype == values[1].dtype
            assert_as_exact(*values, length=shape[0] * shape[2] * shape[3], what=f"{shape}")


def test_only_what_is_asked_for(both):
    x, grad, weight, p, q, r = arguments((2, 5, 4, 3), 7)
    z, _, _ = both[0]([x], weight)
    *_, dx, dw = by_autograd(x, grad, weight, p, q, r)
    no_x = both[1]([x], z, grad, p, q, r, weight, needs_x=False)
    no_weight = both[1]([x], z, grad, p, q, r, weight, needs_weight=False)
    assert no_x[0] is None
    assert no_weight[1] is None
    torch.testing.assert_close(no_x[1], dw, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(no_weight[0], [dx], rtol=1e-11, atol=1e-12)
    # Constants in place of statistics: the gradient is p grad.
    zero = torch.zeros_like(p)
    *_, dx, dw = by_autograd(x, grad, weight, p, zero, zero)
    found = both[1]([x], z, grad, p, None, None, weight)
    torch.testing.assert_close(found, ([dx], dw), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("shape", "parts", "outputs"), SHAPES)
def test_gradients_are_added_to_what_others_gave_and_leave_it_alone(both, shape, parts, outputs):
    x, grad, weight, p, q, r = given = arguments(shape, outputs)
    xs = parts_of(x, parts)
    before = parts_of(draw(*shape, seed=9), parts)
    kept = [part.clone() for part in before]
    z, _, _ = both[0](xs, weight)
    dxs, dw = both[1](xs, z, grad, p, q, r, weight, into=before)
    *_, dx, of_weight = by_autograd(*given)
    torch.testing.assert_close(torch.cat(dxs, 1), dx + torch.cat(kept, 1), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(dw, of_weight, rtol=1e-11, atol=1e-12)
    assert all(torch.equal(part, was) for part, was in zip(before, kept, strict=True))


def test_bits_do_not_depend_on_threads(both):
    if both[0] is not primitive("native", "pointwise_forward"):
        pytest.skip("PyTorch's own matrix products may")
    given = arguments((4, 20, 40, 40), 12, torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(run(both, 2, *given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nan_stays(both):
    x, _, weight, *_ = arguments((1, 4, 3, 3), 2)
    x[0, 1, 1, 1] = float("nan")
    z, _, _ = both[0]([x], weight)
    assert torch.isnan(z[0, :, 1, 1]).all()
    assert int(torch.isnan(z).sum()) == 2


@pytest.mark.skipif(why_unavailable("native") is not None, reason="needs ssfnas._C")
def test_pytorch_stands_in_where_native_code_has_cpus_alone():
    x, weight = (torch.zeros(*size, device="meta") for size in ((2, 3, 5, 4), (7, 3, 1, 1)))
    reason = why_unsupported("native", "pointwise", [x])
    assert reason == "it has no pointwise on 'meta'"
    with backend("native"):
        z, mean, _ = primitives.pointwise_forward([x], weight)
    assert z.shape == (2, 7, 5, 4)
    assert mean.shape == (1, 7)
