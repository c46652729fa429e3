"""Factorized reduces of several edges against autograd in float64, on every backend."""

from __future__ import annotations

import pytest
import torch
from op_checks import BACKENDS, DTYPES, assert_as_exact, draw
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator
from ssfnas.ops import backend, primitives, torch_reduces
from ssfnas.ops.selection import primitive, why_unavailable, why_unsupported

NHWC = torch.channels_last
# Of all inputs, how many tensors they are, output channels of even and of odd pixels, edges.
SHAPES = (((2, 4, 6, 8), 2, (1, 1), 3), ((1, 2, 1, 1), 1, (4, 3), 2), ((3, 6, 7, 4), 3, (2, 2), 1),
          ((2, 5, 5, 9), 1, (8, 8), 2), ((2, 64, 8, 8), 4, (16, 16), 3),
          ((2, 36, 1, 6), 2, (18, 18), 2), ((1, 33, 33, 31), 1, (17, 16), 1),
          ((5, 40, 28, 27), 2, (20, 20), 2))  # fmt: skip


@pytest.fixture(params=BACKENDS)
def both(request):
    """Both functions of a backend."""
    reason = why_unsupported(request.param, "reduces", [torch.zeros(1, 1, 1, 1)])
    if reason is not None:
        pytest.skip(reason)
    return [primitive(request.param, f"reduces_{way}") for way in ("forward", "backward")]


class Case:
    """What both passes take, drawn."""

    def __init__(self, shape, parts, outputs, edges, dtype=torch.float64):
        n, inputs, h, w = shape
        wide, count = accumulator(dtype), sum(outputs)
        result = (n, count, -(-h // 2), -(-w // 2))
        self.parts = parts
        self.x = draw(*shape, seed=1, dtype=dtype).contiguous(memory_format=NHWC)
        self.before = draw(*shape, seed=2, dtype=dtype).contiguous(memory_format=NHWC)
        self.grads = [
            draw(*result, seed=10 + g, dtype=dtype).contiguous(memory_format=NHWC)
            for g in range(edges)
        ]
        self.even, self.odd = (
            [draw(o, inputs, 1, 1, seed=k + g).to(wide) / inputs**0.5 for g in range(edges)]
            for k, o in zip((20, 40), outputs, strict=True)
        )
        self.p, self.q, self.r = (draw(edges, count, seed=60 + k).to(wide) for k in range(3))
        self.factors = draw(edges, n, seed=70).to(wide).clamp_min(0)

    @property
    def xs(self):
        """Tensors side by side."""
        return parts_of(self.x, self.parts)

    def run(self, both, into=None):
        zs, mean, var = both[0](self.xs, self.even, self.odd)
        dxs, of_even, of_odd = self.backward(both, zs, into=into)
        return [*zs, mean, var, torch.cat(dxs, dim=1), *of_even, *of_odd]

    def backward(self, both, zs, **options):
        rows = options.pop("rows", (self.p, self.q, self.r))
        options = {"factors": self.factors} | options
        return both[1](self.xs, zs, self.grads, *rows, self.even, self.odd, **options)

    def truth(self):
        (x,), even, odd = leaves([self.x]), leaves(self.even), leaves(self.odd)
        h, w = x.shape[2:]
        padded = F.pad(x.relu(), (0, w % 2, 0, h % 2))
        zs = [
            torch.cat(
                [
                    torch.einsum("oi,nihw->nohw", first[:, :, 0, 0], padded[:, :, ::2, ::2]),
                    torch.einsum("oi,nihw->nohw", second[:, :, 0, 0], padded[:, :, 1::2, 1::2]),
                ],
                dim=1,
            )
            for first, second in zip(even, odd, strict=True)
        ]
        dzs = []
        for g, (z, grad) in enumerate(zip(zs, self.grads, strict=True)):
            p, q, r = (row[g].double().view(1, -1, 1, 1) for row in (self.p, self.q, self.r))
            f = self.factors[g].double().view(-1, 1, 1, 1)
            dzs.append(p * f * grad.double() + q * z.detach() + r)
        gradients = torch.autograd.grad(zs, [x, *even, *odd], dzs)
        flat = torch.stack([z.detach().transpose(0, 1).flatten(1) for z in zs])
        mean, var = flat.mean(2), flat.var(2, correction=0)
        return [*(z.detach() for z in zs), mean, var, *gradients]


def leaves(values):
    return [value.double().clone().requires_grad_() for value in values]


def parts_of(x, count):
    return [part.contiguous(memory_format=NHWC) for part in x.tensor_split(count, dim=1)]


def assert_same(found, wanted):
    for value, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_what_autograd_says(both, shape):
    case = Case(*shape)
    found = case.run(both)
    assert all(z.is_contiguous(memory_format=NHWC) for z in found[: shape[-1]])
    assert_same(found, case.truth())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_added_in_place(both, shape):
    case = Case(*shape)
    zs, _, _ = both[0](case.xs, case.even, case.odd)
    for into in (
        parts_of(case.before.clone(), shape[1]),
        # Not in the layout of the loops.
        [part.clone(memory_format=torch.contiguous_format) for part in case.before.split(
            shape[0][1] // shape[1], dim=1)],
    ):  # fmt: skip
        dxs, _, _ = case.backward(both, zs, into=into)
        assert dxs is into
        dx = case.truth()[len(zs) + 2]
        torch.testing.assert_close(torch.cat(into, 1), case.before + dx, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_less_exact_than_pytorch_in_that_dtype(both, dtype):
    if dtype == torch.bfloat16 and both[0] is primitive("triton", "reduces_forward"):
        pytest.skip("Triton's interpreter cuts bfloat16 off where a GPU rounds to nearest")
    plain = torch_reduces.reduces_forward, torch_reduces.reduces_backward
    for shape in SHAPES:
        case = Case(*shape, dtype=dtype)
        length = shape[0][0] * shape[0][2] * shape[0][3]
        for into in (None, case.before):
            given = [None if into is None else parts_of(into.clone(), case.parts) for _ in range(2)]
            own, reference = case.run(both, given[0]), case.run(plain, given[1])
            truth = case.truth()
            if into is not None:
                truth[shape[-1] + 2] += into.double()
            for values in zip(own, reference, truth, strict=True):
                assert values[0].dtype == values[1].dtype
                assert_as_exact(*values, length=length, what=f"{shape}")


def test_only_what_is_asked_for(both):
    case = Case((2, 6, 5, 4), 2, (3, 3), 2)
    zs, _, _ = both[0](case.xs, case.even, case.odd)
    *_, dx, even1, even2, odd1, odd2 = case.truth()
    no_x = case.backward(both, zs, needs_x=False)
    no_weights = case.backward(both, zs, needs_weights=False)
    assert no_x[0] is None
    assert no_weights[1:] == (None, None)
    assert_same([*no_x[1], *no_x[2]], [even1, even2, odd1, odd2])
    assert_same([torch.cat(no_weights[0], dim=1)], [dx])


def test_constants_in_place_of_statistics_and_of_factors(both):
    """The gradient of a result is p grad."""
    case = Case((2, 6, 5, 4), 2, (3, 3), 2)
    found = case.backward(both, [], rows=(case.p, None, None), factors=None)
    case.q.zero_(), case.r.zero_(), case.factors.fill_(1)
    assert_same([torch.cat(found[0], dim=1), *found[1], *found[2]], case.truth()[4:])


def test_one_gradient_may_stand_for_several_edges(both):
    case = Case((2, 6, 5, 4), 2, (3, 3), 2)
    case.grads = [case.grads[0]] * 2
    assert_same(case.run(both), case.truth())


def test_bits_do_not_depend_on_threads(both):
    if both[0] is not primitive("native", "reduces_forward"):
        pytest.skip("PyTorch's own matrix products may")
    case = Case((6, 20, 81, 80), 2, (6, 6), 2, torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(case.run(both) + case.run(both, parts_of(case.before.clone(), 2)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nan_stays(both):
    """A rectified NaN is NaN, so that a spoilt loss is seen."""
    case = Case((1, 4, 4, 4), 1, (2, 2), 1)
    case.x[0, 1, 2, 0] = float("nan")
    (z,), _, _ = both[0](case.xs, case.even, case.odd)
    assert z[0, :2, 1, 0].isnan().all()
    assert z.isnan().any(dim=1).nonzero().tolist() == [[0, 1, 0]]


def test_no_images(both):
    case = Case((0, 4, 5, 4), 2, (3, 2), 2)
    zs, mean, var = both[0](case.xs, case.even, case.odd)
    dxs, of_even, of_odd = case.backward(both, zs)
    assert [z.shape for z in zs] == [(0, 5, 3, 2)] * 2
    assert mean.isnan().all()
    assert var.isnan().all()
    assert [dx.shape for dx in dxs] == [(0, 2, 5, 4)] * 2
    assert_same([*of_even, *of_odd], [torch.zeros_like(f) for f in case.even + case.odd])


@pytest.mark.skipif(why_unavailable("native") is not None, reason="needs ssfnas._C")
def test_pytorch_stands_in_where_native_code_has_cpus_alone():
    x, even, odd = (torch.zeros(*size, device="meta") for size in
                    ((2, 3, 5, 4), (4, 3, 1, 1), (3, 3, 1, 1)))  # fmt: skip
    assert why_unsupported("native", "reduces", [x]) == "it has no reduces on 'meta'"
    with backend("native"):
        (z,), mean, _ = primitives.reduces_forward([x], [even], [odd])
    assert z.shape == (2, 7, 3, 2)
    assert mean.shape == (1, 7)
