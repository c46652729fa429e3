"""How native code is called: threads, wrong tensors, what it says that it cannot do."""

from __future__ import annotations

import pytest
import torch
from native_checks import DTYPES, SETS, Draws, displaced, needs_native, on

from ssfnas.errors import RequestError
from ssfnas.ops import backend, mixed_norm_sum, mixed_norm_sum_reference, native

pytestmark = needs_native
needs_cuda_build = pytest.mark.skipif(
    native.unavailable() is not None or not native._C.cuda_architectures,
    reason="needs ssfnas._C built with CUDA",
)


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_results_do_not_depend_on_the_number_of_threads(threads, place, layout):
    draws = Draws(torch.float32, layout)
    shape = (12, 24, 23, 29)  # enough work for several threads
    zs, grad = draws.tensors(3, shape), draws.tensor(shape)
    weights, a, b = draws.values(3), draws.values(3, 24), draws.values(24)

    def everything():
        dxs, dweights = native.mixed_sum_backward(grad, zs, weights, [True] * 3, True)
        yield from (native.mixed_sum_forward(zs, weights), *dxs, dweights)
        yield from native.norm_statistics(zs, [True] * 3)
        yield native.norm_sum_forward(zs, a, b)
        yield from native.norm_sum_reduce(grad, zs, a, a + 1)
        yield from native.norm_sum_apply(grad, zs, a, a + 1, a + 2, [True] * 3)

    with on(place):
        threads(1)
        alone = list(everything())
        for count in (2, 3, 5):
            threads(count)
            for expected, found in zip(alone, everything(), strict=True):
                assert torch.equal(expected, found), count


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_widened_and_rounded_as_pytorch_does(place, dtype):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    halves = patterns.view(dtype)
    with on(place):
        # Down to subnormal numbers, up to infinity, ties, and whatever comes in between.
        for weight in (1.0, 1 + 2**-9, 1 / 3, 2**-14, -(2.0**-20), 3e-8, 1e4, 2.0**14, 0.0):
            expected = (halves.float() * weight).to(dtype)
            found = native.mixed_sum_forward([halves], torch.tensor([weight]))
            right = (expected == found) | (expected.isnan() & found.isnan())
            if place == "amx" and dtype == torch.bfloat16:
                # Its conversion has no subnormal numbers.
                right |= (expected.abs() <= 2.0**-126) & (found == 0)
            assert right.all(), weight


def test_only_what_is_needed_is_read_and_computed():
    draws = Draws(torch.float32, "channels_last")
    zs, grad, weights = draws.tensors(2, (2, 8, 5, 5)), draws.tensor((2, 8, 5, 5)), draws.values(2)
    zs[1].fill_(float("nan"))
    dxs, dweights = native.mixed_sum_backward(grad, zs, weights, [False, True], False)
    assert dxs[0] is None
    assert dweights is None
    assert torch.equal(dxs[1], weights[1] * grad)
    dxs, dweights = native.mixed_sum_backward(grad, zs, weights, [False, False], True)
    assert dxs == [None, None]
    assert dweights[0].isfinite()
    assert dweights[1].isnan()
    assert native.mixed_sum_backward(grad, zs, weights, [False, False], False) == (
        [None, None],
        None,
    )


def test_infinities_and_nans_stay_in_their_channels():
    draws = Draws(torch.float32, "channels_last")
    zs, grad = draws.tensors(2, (2, 8, 5, 5)), draws.tensor((2, 8, 5, 5))
    zs[0][1, 3, 2, 2], zs[1][0, 6, 0, 0] = float("inf"), float("nan")
    a, b = draws.values(2, 8), draws.values(8)
    out = native.norm_sum_forward(zs, a, b)
    assert (~out.isfinite()).nonzero().tolist() == [[0, 6, 0, 0], [1, 3, 2, 2]]
    mean, var = native.norm_statistics(zs, [True, True])
    _, s1 = native.norm_sum_reduce(grad, zs, a, a)
    for values in (mean, var, s1):
        assert (~values.isfinite()).nonzero().tolist() == [[0, 3], [1, 6]]


def test_wrong_tensors_are_refused_before_memory_is_read():
    draws = Draws(torch.float32, "nchw")
    z, weights = draws.tensor((2, 3, 4, 4)), draws.values(2)
    for other in (draws.tensor((2, 3, 4, 5)), z.double(), z.to("meta")):
        with pytest.raises(RequestError, match="all tensors have to be alike"):
            native.mixed_sum_forward([z, other], weights)
        with pytest.raises(RequestError, match="all tensors have to be alike"):
            native.norm_sum_reduce(other, [z, z], draws.values(2, 3), draws.values(2, 3))
    for wrong in (draws.values(3), draws.values(2, 1), weights.to("meta")):
        with pytest.raises(RequestError, match="coefficients"):
            native.mixed_sum_forward([z, z], wrong)
    with pytest.raises(RequestError, match="coefficients"):
        native.norm_sum_forward([z, z], draws.values(2, 4), draws.values(3))
    with pytest.raises(RequestError, match="1 flags for 2 tensors"):
        native.mixed_sum_backward(z, [z, z], weights, [True], True)
    with pytest.raises(ValueError, match="zip"):
        native.norm_sum_apply(z, [z, z], *[draws.values(2, 3)] * 3, [True])


def test_coefficients_may_be_strided_views():
    draws = Draws(torch.float32, "nchw")
    zs, a, b = draws.tensors(2, (2, 3, 4, 4)), draws.values(3, 5), draws.values(6)
    strided = native.norm_sum_forward(zs, a.T[1:3], b[::2])
    assert torch.equal(
        strided, native.norm_sum_forward(zs, a.T[1:3].contiguous(), b[::2].contiguous())
    )


def test_it_says_what_it_cannot_take():
    assert native.unsupported("mixed_sum", [torch.zeros(2)]) is None
    assert "int64" in native.unsupported("mixed_sum", [torch.zeros(2, dtype=torch.int64)])
    assert "'meta'" in native.unsupported("mixed_sum", [torch.zeros(2, device="meta")])


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_80", (7, 5), False),
        ("sm_86", (8, 0), False),
        ("sm_90", (10, 0), False),
        ("compute_90", (9, 0), True),
        ("compute_90", (12, 0), True),
        ("compute_90", (8, 9), False),
        ("sm_90a", (9, 0), True),
        ("compute_90a", (10, 0), False),
        ("sm_120", (12, 1), True),
        ("gfx942", (9, 4), False),
    ],
)
def test_which_gpus_compiled_code_runs_on(built, capability, runs):
    assert native._runs_on(built, capability) is runs


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_the_op_on_native_code_is_as_exact_as_its_reference(dtype):
    draws = Draws(dtype, "channels_last")
    zs, weights = draws.tensors(4, (4, 16, 9, 9)), draws.values(4)
    grad = draws.tensor((4, 16, 9, 9))

    def gradients(op, inputs, w, g):
        inputs, w = [x.detach().requires_grad_() for x in inputs], w.detach().requires_grad_()
        out = op(inputs, w, normalize=[True, True, False, True])
        return [out, *torch.autograd.grad(out, [*inputs, w], g)]

    truth = gradients(
        mixed_norm_sum_reference, [z.double() for z in zs], weights.double(), grad.double()
    )
    own = gradients(mixed_norm_sum_reference, zs, weights, grad)
    with backend("native"):
        found = gradients(mixed_norm_sum, zs, weights, grad)
    for ours, reference, true in zip(found, own, truth, strict=True):
        error = (ours.double() - true).norm() / true.norm()
        allowed = 2 * (reference.double() - true).norm() / true.norm() + 1e-15
        assert error <= allowed + (2e-7 if dtype != torch.float64 else 0)


@needs_cuda_build
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_a_tensor_that_is_not_read_may_begin_anywhere(dtype):
    """36 channels: a block of 16-byte loads covers fewer pixels than one of single values."""
    extent, full = (32 * 32, 36, 1), 16 // dtype.itemsize

    def room(*read: int) -> int:
        return native._C.norm_partials(native.DTYPES[dtype], read, extent, 2 * len(read))

    aligned, shifted = 4096, 4096 + dtype.itemsize
    assert room(aligned, 0) == room(aligned, aligned)
    if extent[1] % full == 0:
        assert room(aligned, 0) > room(aligned, shifted)


def test_room_is_made_for_what_is_read(monkeypatch):
    """Of the addresses that the kernels get, and of no others."""
    draws = Draws(torch.float32, "channels_last")
    zs, grad = draws.tensors(2, (8, 36, 12, 12)), draws.tensor((8, 36, 12, 12))
    zs[1] = displaced(zs[1])
    asked = []

    def room(like, read, extent, rows):
        asked.append((read, rows))
        return like.new_empty(0)

    monkeypatch.setattr(native, "_norm_partials", room)
    native.norm_statistics(zs, [True, False])
    native.norm_sum_reduce(grad, zs, draws.values(2, 36), draws.values(2, 36))
    (statistics, of_statistics), (reduction, of_reduction) = asked
    assert (statistics, of_statistics) == ([zs[0].data_ptr(), 0], 4)
    assert reduction[:3] == [grad.data_ptr(), zs[0].data_ptr(), zs[1].data_ptr()]
    assert of_reduction == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_partial_sums_stay_in_their_room(monkeypatch):
    draws = Draws(torch.float32, "channels_last", "cuda")
    zs = draws.tensors(2, (8, 36, 32, 32))
    zs[1] = displaced(zs[1])
    guards, make = [], native._norm_partials

    def guarded(like, read, extent, rows):
        room = make(like, read, extent, rows)
        longer = torch.full((room.numel() + 4096,), 7.0, dtype=room.dtype, device=room.device)
        guards.append(longer[room.numel() :])
        return longer

    monkeypatch.setattr(native, "_norm_partials", guarded)
    mean, var = native.norm_statistics(zs, [True, False])
    native.norm_sum_reduce(zs[0], zs, mean, var)
    assert len(guards) == 2
    assert all(bool((guard == 7).all()) for guard in guards)
    torch.testing.assert_close(mean[0], zs[0].mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_on_a_gpu_it_runs_on_the_current_stream_and_in_graphs(layout):
    draws = Draws(torch.float32, layout, "cuda")
    zs, grad = draws.tensors(5, (8, 16, 32, 32)), draws.tensor((8, 16, 32, 32))
    weights, a, b = draws.values(5), draws.values(5, 16), draws.values(16)

    def everything():
        return [
            native.mixed_sum_forward(zs, weights),
            native.mixed_sum_backward(grad, zs, weights, [True] * 5, True)[1],
            native.norm_statistics(zs, [True] * 5)[1],
            native.norm_sum_forward(zs, a, b),
            native.norm_sum_reduce(grad, zs, a, a)[1],
            native.norm_sum_apply(grad, zs, a, a, a, [True] * 5)[4],
        ]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        everything()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = everything()
    fresh = [draws.tensor(z.shape) for z in zs]
    for z, values in zip(zs, fresh, strict=True):
        z.copy_(values)
    graph.replay()
    for expected, found in zip(everything(), captured, strict=True):
        assert torch.equal(expected, found)
    many = [zs[0]] * 65
    assert "more than the 64" in native.unsupported("mixed_sum", many)
