"""Native candidates of a source against their definitions in float64, on each instruction set."""

from __future__ import annotations

import pytest
import torch
from candidate_calls import KINDS, SHAPES, Calls, assert_right
from native_checks import DTYPES, SETS, Draws, displaced, needs_native, on

from ssfnas.errors import RequestError
from ssfnas.ops import native, native_candidates, torch_candidates

pytestmark = needs_native

# Few channels, of several pixels to a vector, and of one where rows are no whole vectors.
PACKED = ((2, 4, 7, 8), (1, 4, 3, 4), (3, 8, 5, 6), (2, 8, 1, 2), (2, 4, 33, 32), (2, 4, 5, 6))


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_units_are_their_definition(place, dtype, stride, shared):
    for shape in (*SHAPES, *PACKED):
        calls = Calls(dtype, shape, stride=stride, shared=shared)
        with on(place):
            found = calls.separable(native_candidates)
        # The matrix unit rounds what it multiplies, so that sums are no more exact than results.
        scale = 2 if place == "amx" and dtype == torch.bfloat16 else 1
        truth = calls.double().separable(torch_candidates)
        assert_right(found, truth, dtype, f"{shape}", scale)


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("stride", [1, 2])
def test_pools_are_their_definition(place, dtype, stride):
    for shape in (*SHAPES, *PACKED):
        calls = Calls(dtype, shape, stride=stride, shared=True)
        with on(place):
            found = calls.pools(native_candidates)
        assert_right(found, calls.double().pools(torch_candidates), dtype, f"{shape}")


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_results_do_not_depend_on_the_number_of_threads(threads, place, shared):
    # Few images and many; each is enough work for several threads.
    for shape in ((2, 17, 48, 48), (54, 8, 13, 12), (9, 4, 48, 48)):
        calls = Calls(torch.float32, shape, stride=1, shared=shared)
        with on(place):
            threads(1)
            alone = [*calls.separable(native_candidates), *calls.pools(native_candidates)]
            for count in (2, 3):
                threads(count)
                found = [*calls.separable(native_candidates), *calls.pools(native_candidates)]
                for expected, value in zip(alone, found, strict=True):
                    assert torch.equal(expected, value), (shape, count)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_memory_may_begin_anywhere_and_be_in_any_order(shared):
    calls = Calls(torch.float32, (2, 17, 5, 11), stride=1, shared=shared)
    expected = [*calls.separable(native_candidates), *calls.pools(native_candidates)]
    for change in (displaced, torch.Tensor.contiguous, lambda x: torch.cat([x, x], 1)[:, :17]):
        for name in ("xs", "zs", "grads", "depthwise", "pointwise"):
            old = getattr(calls, name)
            new = [change(x) if x.shape[0] == 2 else displaced(x) for x in old]
            setattr(calls, name, new)
        found = [*calls.separable(native_candidates), *calls.pools(native_candidates)]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_coefficient_of_results_that_is_none_leaves_them_unread():
    calls = Calls(torch.float32, (2, 5, 6, 7), stride=2, shared=True)
    expected = Calls(torch.float32, (2, 5, 6, 7), stride=2, shared=True)
    calls.q = calls.r = None
    calls.zs = [torch.full_like(z, float("nan")) for z in calls.zs]
    expected.q, expected.r = torch.zeros_like(expected.q), torch.zeros_like(expected.r)
    for a, b in zip(
        calls.separable(native_candidates), expected.separable(native_candidates), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(2, 17, 6, 7), (2, 4, 6, 8), (2, 8, 3, 6)], ids=str)
@pytest.mark.parametrize("place", SETS)
def test_maxima_treat_nan_and_infinity_as_pytorch_does(place, shape):
    x = torch.round(Draws(torch.float32, "channels_last").tensor(shape))
    x[0, 3, 2, 2], x[1, -1, 0, 0], x[1, 0] = float("nan"), float("inf"), -float("inf")
    with on(place):
        for stride in (1, 2):
            found = native_candidates.pools_forward(x, stride)
            expected = torch_candidates.pools_forward(x, stride)
            assert torch.equal(found[0].isnan(), expected[0].isnan())
            assert torch.equal(found[0].nan_to_num(7.0), expected[0].nan_to_num(7.0))
            grad = torch.ones_like(found[0])
            dx = native_candidates.pools_backward(x, grad, None, stride)
            assert torch.equal(dx, torch_candidates.pools_backward(x, grad, None, stride))


def test_wrong_tensors_are_refused_before_memory_is_read():
    calls = Calls(torch.float32, (2, 3, 4, 4), stride=1, shared=True)
    x, groups = calls.xs[0], len(KINDS)
    forward, backward = native_candidates.separable_forward, native_candidates.separable_backward
    filters, rows = (calls.depthwise, calls.pointwise), (calls.p, calls.q, calls.r)
    for xs, words in [
        ([x[0]], r"images are \[N, C, H, W\]"),
        ([x.to("meta")], "on the CPU"),
        ([x.int()], "floating point"),
        ([x, x], f"2 tensors: {groups} are needed"),
        ([x] * (groups - 1) + [x[:1]], r"\[1, 3, 4, 4\].*\[2, 3, 4, 4\]"),
        ([x] * (groups - 1) + [x.double()], "float64"),
        ([x[:, :2]], "coefficients"),
    ]:
        with pytest.raises(RequestError, match=words):
            forward(xs, *filters, **calls.keywords)
    with pytest.raises(RequestError, match="one of each a group"):
        forward([x], calls.depthwise[:2], calls.pointwise, **calls.keywords)
    with pytest.raises(RequestError, match="coefficients"):
        forward([x], [f[:, :, :2] for f in calls.depthwise], calls.pointwise, **calls.keywords)
    with pytest.raises(RequestError, match="stride 0"):
        forward([x], *filters, **(calls.keywords | {"stride": 0}))
    with pytest.raises(RequestError, match="scale and shift"):
        forward([x], *filters, **calls.keywords, scale=calls.p)
    for grads, coefficients, words in [
        (calls.grads[:2], rows, "2 tensors"),
        ([grad[:, :, :3] for grad in calls.grads], rows, "fits"),
        (calls.grads, (calls.p[:2], calls.q, calls.r), "coefficients"),
    ]:
        with pytest.raises(RequestError, match=words):
            backward([x], calls.zs, grads, *coefficients, *filters, **calls.keywords)
    with pytest.raises(RequestError, match="fits"):
        backward([x], calls.zs, calls.grads, *rows, *filters, **calls.keywords, into=x[:1])
    with pytest.raises(RequestError, match="share one source"):
        backward([x] * groups, calls.zs, calls.grads, *rows, *filters, **calls.keywords)
    with pytest.raises(RequestError, match="fits"):
        native_candidates.pools_backward(x, x[:, :, :2], None, 1)
    with pytest.raises(RequestError, match="got a tensor on meta"):
        native_candidates.pools_forward(x.to("meta"), 1)


def test_one_input_may_be_normalized_in_several_ways():
    calls = Calls(torch.float64, (2, 3, 5, 4), stride=1, shared=False)
    calls.xs = calls.xs[:1]
    found = calls.separable(native_candidates)
    assert_right(found, calls.separable(torch_candidates), torch.float64, "one input")


def test_it_says_what_it_cannot_take():
    assert native.unsupported("candidate_operations", [torch.zeros(1, 1, 1, 1)]) is None
    reason = native.unsupported("candidate_operations", [torch.zeros(1, dtype=torch.int64)])
    assert "int64" in reason
