from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from candidate_checks import KINDS
from op_checks import BACKENDS, DTYPES, assert_as_exact, draw, forced

from ssfnas.errors import RequestError
from ssfnas.ops import (
    BackendError,
    backend,
    candidate_operations,
    candidate_operations_reference,
    native,
)
from ssfnas.ops.selection import primitive, why_unsupported

SHAPES = [(8, 2, 1, 1), (2, 3, 7, 5), (2, 4, 2, 9), (1, 8, 12, 12), (3, 16, 8, 8), (2, 17, 9, 6)]


def inputs(shape, dtype=torch.float64, kinds=KINDS, filters=None):
    channels = shape[1]
    s = draw(*shape, seed=1, dtype=dtype).contiguous(memory_format=torch.channels_last)
    filters = filters or dtype
    depthwise = [draw(channels, 1, k, k, seed=k + d, dtype=filters) / k for k, d in kinds]
    pointwise = [
        draw(channels, channels, 1, 1, seed=10 + g, dtype=filters) / channels**0.5
        for g in range(len(kinds))
    ]
    return s, depthwise, pointwise


def run(
    function,
    s,
    depthwise,
    pointwise,
    *,
    stride=1,
    kinds=KINDS,
    wanted=None,
    used=None,
    rounded=None,
):
    """Results, and gradients of the wanted inputs from the used results.

    Their gradients are numbers of the dtype ``rounded``.
    """
    values = [s, *depthwise, *pointwise]
    wanted = wanted or [True] * len(values)
    leaves = [v.detach().requires_grad_(w) for v, w in zip(values, wanted, strict=True)]
    groups = len(depthwise)
    zs, largest, average = function(
        leaves[0],
        leaves[1 : 1 + groups],
        leaves[1 + groups :],
        dilations=[d for _, d in kinds],
        stride=stride,
    )
    results = [*zs, largest, average]
    grads = [
        draw(*z.shape, seed=50 + k, dtype=rounded or s.dtype).to(s.dtype)
        for k, z in enumerate(results)
    ]
    used = used or [True] * len(results)
    chosen = [k for k, use in enumerate(used) if use and results[k].requires_grad]
    given = torch.autograd.grad(
        [results[k] for k in chosen],
        [leaf for leaf in leaves if leaf.requires_grad],
        [grads[k] for k in chosen],
        allow_unused=True,
    )
    return [z.detach() for z in results], list(given)


def double(values):
    return [value.double() for value in values]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_no_less_exact_than_the_reference(name, dtype, stride):
    for shape in SHAPES:
        s, depthwise, pointwise = inputs(shape, dtype)
        exact = run(
            candidate_operations_reference, s.double(), double(depthwise), double(pointwise),
            stride=stride, rounded=dtype,
        )  # fmt: skip
        own = run(candidate_operations_reference, s, depthwise, pointwise, stride=stride)
        with forced(name, "candidate_operations", [s]):
            found = run(candidate_operations, s, depthwise, pointwise, stride=stride)
        for kind in range(2):
            for place, values in enumerate(zip(found[kind], own[kind], exact[kind], strict=True)):
                assert values[0].dtype == values[1].dtype
                length = shape[0] * shape[2] * shape[3] + shape[1]
                assert_as_exact(*values, length=length, what=f"{shape}: {kind}, {place}")


@pytest.mark.parametrize("function", [candidate_operations, candidate_operations_reference])
def test_gradients_are_derivatives(function):
    kinds = KINDS[:2]
    s, depthwise, pointwise = inputs((1, 2, 4, 3), kinds=kinds)
    leaves = [value.requires_grad_() for value in (s, *depthwise, *pointwise)]

    def flat(s, *filters):
        zs, largest, average = function(s, filters[:2], filters[2:], dilations=[1, 1], stride=2)
        return *zs, largest, average

    assert torch.autograd.gradcheck(flat, leaves)


def test_reference_is_differentiable_twice():
    s, depthwise, pointwise = inputs((1, 2, 3, 3), kinds=KINDS[:1])
    leaves = [value.requires_grad_() for value in (s, *depthwise, *pointwise)]

    def total(function, s, f, w):
        zs, largest, average = function(s, [f], [w], dilations=[1])
        return (zs[0] * largest + average).square().sum()

    assert torch.autograd.gradgradcheck(
        lambda *values: total(candidate_operations_reference, *values), leaves
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_only_wanted_gradients_are_made(name, monkeypatch):
    s, depthwise, pointwise = inputs((2, 4, 6, 5))
    groups = len(KINDS)
    every, none = [True] * groups, [False] * groups
    with forced(name, "candidate_operations", [s]):
        for wanted, used in [
            ([True, *none, *none], [True] * (groups + 2)),
            ([False, *every, *every], [True] * (groups + 2)),
            ([True, *every, *every], [False, True, False, True, False, True]),
            ([True, *none, *every], [False] * groups + [True, False]),
            ([True, True, *[False] * 3, *[False] * 3, True], [True] * groups + [False, False]),
            ([False, True, *[False] * 3, *none], [False, True, True, False, True, True]),
        ]:
            exact = run(
                candidate_operations_reference, s, depthwise, pointwise, wanted=wanted, used=used
            )
            found = run(candidate_operations, s, depthwise, pointwise, wanted=wanted, used=used)
            for value, expected in zip(found[1], exact[1], strict=True):
                assert (value is None) == (expected is None)
                if value is not None:
                    torch.testing.assert_close(value, expected)

    called = []

    def noting(name, function):
        def call(*args, **named):
            called.append((function, named.get("needs_weights")))
            return primitive(name, function)(*args, **named)

        return call

    module = importlib.import_module("ssfnas.ops.candidate_operations")
    monkeypatch.setattr(module, "primitive", noting)
    with forced(name, "candidate_operations", [s]):
        run(candidate_operations, s, depthwise, pointwise, wanted=[True, *none, *none])
        assert called[2:] == [("pools_backward", None), ("separable_backward", False)]
        called.clear()
        run(candidate_operations, s, depthwise, pointwise, wanted=[False, *every, *every])
        assert called[2:] == [("separable_backward", True)]


@pytest.mark.parametrize("name", BACKENDS)
def test_layouts_and_filters_of_other_dtypes(name):
    s, depthwise, pointwise = inputs((2, 6, 5, 4), torch.float32, filters=torch.bfloat16)
    wide = torch.zeros(2, 12, 5, 4)
    wide[:, 3:9] = s
    exact = run(candidate_operations_reference, s.double(), double(depthwise), double(pointwise))
    for given in (s, s.contiguous(), wide[:, 3:9]):
        with forced(name, "candidate_operations", [s]):
            found = run(candidate_operations, given, depthwise, pointwise)
        assert [g.dtype for g in found[1]] == [torch.float32] + [torch.bfloat16] * 2 * len(KINDS)
        for value, expected in zip(found[0] + found[1], exact[0] + exact[1], strict=True):
            tolerance = 1e-5 if value.dtype == torch.float32 else 1e-2
            torch.testing.assert_close(
                value.double(), expected, rtol=tolerance, atol=10 * tolerance
            )


@pytest.mark.parametrize("name", BACKENDS)
def test_same_call_same_bits_and_inputs_untouched(name):
    s, depthwise, pointwise = inputs((5, 16, 13, 11), torch.float32)
    before = [x.clone() for x in (s, *depthwise, *pointwise)]
    with forced(name, "candidate_operations", [s]):
        first = run(candidate_operations, s, depthwise, pointwise)
        second = run(candidate_operations, s, depthwise, pointwise)
    for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(before, (s, *depthwise, *pointwise), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", BACKENDS)
def test_no_images_and_no_units(name):
    s, depthwise, pointwise = inputs((0, 4, 6, 5))
    with forced(name, "candidate_operations", [s]):
        results, grads = run(candidate_operations, s, depthwise, pointwise, stride=2)
        assert all(z.shape == (0, 4, 3, 3) for z in results)
        assert grads[0].shape == s.shape
        assert all(grad.eq(0).all() for grad in grads[1:])
        s = draw(2, 3, 4, 4, seed=0)
        (largest, average), (dx,) = run(candidate_operations, s, [], [], kinds=())
    (expected, _), (truth,) = run(candidate_operations_reference, s, [], [], kinds=())
    torch.testing.assert_close(largest, expected)
    torch.testing.assert_close(dx, truth)
    assert average.shape == s.shape


def test_autocast_and_compiled_callers_change_nothing():
    s, depthwise, pointwise = inputs((2, 4, 6, 5), torch.float32)
    expected = run(candidate_operations, s, depthwise, pointwise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(candidate_operations, s, depthwise, pointwise)

    def caller(*args, **named):
        zs, largest, average = candidate_operations(*args, **named)
        return [z * 1 for z in zs], largest, average

    compiled = run(torch.compile(caller, backend="eager"), s, depthwise, pointwise)
    for others in (found, compiled):
        for a, b in zip(expected[0] + expected[1], others[0] + others[1], strict=True):
            assert torch.equal(a, b)


def test_the_reference_can_be_asked_for():
    s, depthwise, pointwise = inputs((1, 2, 3, 3), kinds=KINDS[:1])
    s.requires_grad_()
    with backend("reference"):
        zs, _, _ = candidate_operations(s, depthwise, pointwise, dilations=[1])
    (first,) = torch.autograd.grad(zs[0].square().sum(), s, create_graph=True)
    first.square().sum().backward()
    assert s.grad.norm() > 0


def test_native_code_says_which_tensors_it_takes(monkeypatch):
    reason = why_unsupported("native", "candidate_operations", [torch.zeros(1, 1, 1, 1)])
    if reason is not None:
        pytest.skip(reason)

    class OnGpu:
        dtype = torch.float32
        device = torch.device("cuda", 99)

    with monkeypatch.context() as built:
        built.setattr(native, "_C", SimpleNamespace(cuda_architectures="", max_inputs=0))
        assert "without CUDA" in why_unsupported("native", "candidate_operations", [OnGpu()])
    s, depthwise, pointwise = inputs((1, 2, 3, 3), kinds=KINDS[:1])
    with backend("native"), pytest.raises(BackendError, match="'meta'"):
        candidate_operations(
            s.to("meta"),
            [f.to("meta") for f in depthwise],
            [f.to("meta") for f in pointwise],
            dilations=[1],
        )


@pytest.mark.parametrize("function", [candidate_operations, candidate_operations_reference])
def test_bad_inputs_are_named(function):
    s, f, w = torch.ones(2, 3, 4, 4), torch.ones(3, 1, 3, 3), torch.ones(3, 3, 1, 1)
    for source, depthwise, pointwise, dilations, stride, words in [
        (s[0], [f], [w], [1], 1, r"source is \[3, 4, 4\]"),
        (s.long(), [f], [w], [1], 1, "int64"),
        (s, [f, f], [w], [1], 1, "2 depthwise filters, 1 1x1 filters and 1 dilations"),
        (s, [f], [w], [0], 1, "at least 1"),
        (s, [f], [w], [1], 0, "at least 1"),
        (s, [f[:2]], [w], [1], 1, r"depthwise filter 0 is \[2, 1, 3, 3\]"),
        (s, [f[:, :, :2, :2]], [w], [1], 1, "odd k"),
        (s, [f], [w[:2]], [1], 1, r"1x1 filter 0 is \[2, 3, 1, 1\]"),
        (s, [f.to("meta")], [w], [1], 1, "on meta"),
        (s, [f], [w.long()], [1], 1, "int64"),
    ]:
        with pytest.raises(RequestError, match=words):
            function(source, depthwise, pointwise, dilations=dilations, stride=stride)
