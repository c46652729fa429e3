"""The primitives behind candidate_operations against autograd, and windows one by one."""

from __future__ import annotations

import pytest
import torch
from candidate_checks import KINDS, by_autograd, make_units, pooled_by_loops
from op_checks import BACKENDS, DTYPES, assert_as_exact, draw

from ssfnas.ops import torch_candidates
from ssfnas.ops.selection import primitive, why_unsupported

SIZES = ((1, 1), (7, 5), (2, 9), (28, 28))
NAMES = (
    "separable_forward",
    "separable_backward",
    "pools_forward",
    "pools_backward",
)


@pytest.fixture(params=BACKENDS)
def primitives(request):
    """The four functions of a backend, by name."""
    reason = why_unsupported(request.param, "candidate_operations", [torch.zeros(1, 1, 1, 1)])
    if reason is not None:
        pytest.skip(reason)
    return {name: primitive(request.param, name) for name in NAMES}


@pytest.fixture
def both(primitives):
    return primitives["separable_forward"], primitives["separable_backward"]


def assert_close(found, truth, what, tolerance=1e-12):
    assert len(found) == len(truth), what
    for place, (value, expected) in enumerate(zip(found, truth, strict=True)):
        assert value.shape == expected.shape, f"{what}: {place}"
        error = (value.double() - expected).norm() / expected.norm().clamp_min(1e-3)
        assert error <= tolerance, f"{what}: result {place} errs by {error:.1e}"


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 16, 17, 32])
def test_units_are_what_autograd_says(both, channels, stride, shared):
    for number, (height, width) in enumerate(SIZES):
        shape, needs_weights = (2, channels, height, width), number % 2 == 0
        units = make_units(
            shape,
            stride=stride,
            shared=shared,
            affine=number != 1,
            factors=number > 1,
            seed=number,
        )
        into = draw(*shape, seed=9) if shared and number > 1 else None
        truth = by_autograd(units, needs_weights, into)
        found = units.run(*both, needs_weights, None if into is None else into.clone())
        assert_close(found, truth, f"{height} x {width}")


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_any_odd_filter_and_dilation(both, stride):
    kinds = [(1, 1), (7, 1), (3, 3), (7, 2), (5, 3)]
    for shared in (True, False):
        units = make_units((2, 5, 11, 13), kinds=kinds, stride=stride, shared=shared)
        assert_close(units.run(*both), by_autograd(units), f"shared: {shared}")


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_less_exact_than_pytorch_in_that_dtype(both, dtype, shared):
    plain = torch_candidates.separable_forward, torch_candidates.separable_backward
    # No larger images: PyTorch 2.11's gradient of dilated depthwise filters in bfloat16 and
    # channels_last has no correct digit from about 29 x 29 pixels on.
    for number, shape in enumerate([(3, 16, 12, 12), (2, 17, 7, 9), (5, 3, 23, 21)]):
        units = make_units(shape, shared=shared, dtype=dtype, stride=1 + number % 2, seed=number)
        found, own, truth = units.run(*both), units.run(*plain), by_autograd(units.double())
        for place, values in enumerate(zip(found, own, truth, strict=True)):
            assert values[0].dtype == values[1].dtype
            # Gradients of filters are sums over all pixels of products that may cancel.
            length = shape[0] * shape[2] * shape[3]
            assert_as_exact(*values, length=length, what=f"{shape}: result {place}")


def test_into_is_added_to_in_place(both):
    units = make_units((2, 6, 5, 4), dtype=torch.float32)
    zs = units.run(*both)[: len(KINDS)]
    for layout in (torch.channels_last, torch.contiguous_format):
        into = draw(2, 6, 5, 4, seed=3, dtype=torch.float32).contiguous(memory_format=layout)
        truth = by_autograd(units.double(), into=into.double())[len(KINDS) + 2]
        (dx,), *_ = both[1](
            units.xs, zs, units.grads, units.p, units.q, units.r, units.depthwise,
            units.pointwise, stride=1, dilations=units.dilations, into=into,
        )  # fmt: skip
        assert dx is into
        torch.testing.assert_close(dx.double(), truth, rtol=1e-4, atol=1e-4)


def test_inputs_are_left_alone_and_layouts_do_not_matter(both):
    for shared in (True, False):
        units = make_units((2, 6, 5, 4), shared=shared)
        wide = [torch.zeros(2, 12, 5, 4, dtype=torch.float64) for _ in units.xs]
        for storage, x in zip(wide, units.xs, strict=True):
            storage[:, 3:9] = x
        for x, grad in zip(wide, units.grads, strict=False):
            assert not x[:, 3:9].is_contiguous()
            assert grad.is_contiguous(memory_format=torch.channels_last)
        turned = make_units((2, 6, 5, 4), shared=shared)
        turned.xs[:] = [x[:, 3:9] for x in wide]
        turned.grads[:] = [grad.contiguous() for grad in turned.grads]
        before = [x.clone() for x in (*turned.xs, *turned.grads, *turned.depthwise)]
        truth = by_autograd(units)
        assert_close(turned.run(*both), truth, f"shared: {shared}")
        after = [*turned.xs, *turned.grads, *turned.depthwise]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_one_gradient_may_serve_several_units(both):
    units = make_units((2, 6, 5, 4))
    units.grads[:] = [units.grads[0]] * len(KINDS)
    assert_close(units.run(*both), by_autograd(units), "same gradient")


def test_one_tensor_may_be_every_units_own_input(both):
    units = make_units((2, 6, 5, 4), shared=False)
    units.xs[:] = [units.xs[0]] * len(KINDS)
    assert_close(units.run(*both), by_autograd(units), "same input")


def test_no_images(both, primitives):
    for shared in (True, False):
        units = make_units((0, 3, 4, 5), shared=shared, stride=2)
        results = units.run(*both)
        zs, (mean, var), rest = results[:4], results[4:6], results[6:]
        assert all(z.shape == (0, 3, 2, 3) for z in zs)
        assert mean.isnan().all()
        assert var.isnan().all()
        assert all(value.eq(0).all() for value in rest)
    x = torch.zeros(0, 3, 4, 5)
    largest, average, mean, _ = primitives["pools_forward"](x, 2)
    assert largest.shape == average.shape == (0, 3, 2, 3)
    assert mean.isnan().all()
    assert primitives["pools_backward"](x, largest, average, 2).shape == x.shape


def test_variance_survives_a_large_mean(both):
    units = make_units((4, 16, 20, 20), shared=False, dtype=torch.float32)
    units.shift.add_(1000.0)
    _, mean, var = both[0](units.xs, units.depthwise, units.pointwise, **units.keywords)
    truth = by_autograd(units.double())[4:6]
    torch.testing.assert_close(mean.double(), truth[0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(var.double(), truth[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 7, 5), (1, 17, 4, 6), (2, 4, 1, 3)])
def test_pools_are_what_windows_say(primitives, shape, stride):
    # Whole numbers: ties are everywhere.
    x = draw(*shape, seed=1).round()
    output = (*shape[:2], *(-(-size // stride) for size in shape[2:]))
    d_largest, d_average = draw(*output, seed=2), draw(*output, seed=3)
    largest, average, mean, var = primitives["pools_forward"](x, stride)
    truth = pooled_by_loops(x, stride)
    assert_close([largest, average], truth[:2], "results")
    for row, pooled in enumerate(truth[:2]):
        flat = pooled.transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean[row], flat.mean(1))
        torch.testing.assert_close(var[row], flat.var(1, correction=0))
    into = draw(*shape, seed=4)
    for grads in ((d_largest, d_average), (d_largest, None), (None, d_average)):
        dx = pooled_by_loops(x, stride, *grads)[2]
        assert_close([primitives["pools_backward"](x, *grads, stride)], [dx], "gradient")
        total = into.clone()
        assert primitives["pools_backward"](x, *grads, stride, total) is total
        assert_close([total], [into + dx], "added")


@pytest.mark.parametrize("dtype", DTYPES)
def test_pools_are_no_less_exact_than_pytorch(primitives, dtype):
    x = draw(3, 17, 9, 8, seed=1, dtype=dtype).contiguous(memory_format=torch.channels_last)
    grads = [draw(3, 17, 5, 4, seed=seed, dtype=dtype) for seed in (2, 3)]

    def run(forward, backward, x, grads):
        return [*forward(x, 2), backward(x, *grads, 2)]

    plain = torch_candidates.pools_forward, torch_candidates.pools_backward
    found = run(primitives["pools_forward"], primitives["pools_backward"], x, grads)
    own, truth = run(*plain, x, grads), run(*plain, x.double(), [g.double() for g in grads])
    for place, values in enumerate(zip(found, own, truth, strict=True)):
        assert values[0].dtype == values[1].dtype
        assert_as_exact(*values, length=60, what=f"result {place}")


def test_nan_stays_where_it_reaches(primitives, both):
    x = draw(1, 5, 9, 9, seed=1)
    x[0, 2, 4, 4] = float("nan")
    for result in primitives["pools_forward"](x, 1)[:2]:
        reached = result.isnan().nonzero()
        assert reached.shape == (9, 4)
        assert reached[:, 1].eq(2).all()
    units = make_units((1, 5, 9, 9), kinds=[(3, 1)])
    units.xs[0][0, 2, 4, 4] = float("nan")
    # A rectifier lets NaN through, and its gradient there is that of no positive number.
    z = units.run(*both)[0]
    assert z.isnan().sum() == 9 * 5
