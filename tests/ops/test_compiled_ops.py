from __future__ import annotations

import pytest
import torch
from op_checks import draw
from torch._dynamo.testing import CompileCounter
from torch.library import opcheck

from ssfnas.ops import backend, barlow_twins_loss, mixed_norm_sum, mixed_sum


def leaves(shape, count, *, dtype=torch.float64, layouts=(torch.contiguous_format,), frozen=()):
    xs = [draw(*shape, seed=k, dtype=dtype) + k for k in range(count)]
    xs = [x.contiguous(memory_format=layouts[k % len(layouts)]) for k, x in enumerate(xs)]
    xs = [x.requires_grad_(k not in frozen) for k, x in enumerate(xs)]
    return xs, draw(count, seed=90, dtype=dtype).requires_grad_()


LAYOUTS = [
    (torch.contiguous_format,),
    (torch.channels_last,),
    (torch.contiguous_format, torch.channels_last),
    (torch.channels_last, torch.contiguous_format),
]


def plain(xs, weights):
    return mixed_sum(xs, weights).sin()


def normalized(zs, weights):
    return mixed_norm_sum(zs, weights, normalize=[True, False, True]).sin()


def with_statistics(zs, weights):
    out, mean, var, count = mixed_norm_sum(zs, weights, return_stats=True)
    return out.sin() + (mean + var).sum() * count


def with_given_statistics(zs, weights):
    mean = torch.stack([z.mean((0, 2, 3)) for z in zs])
    var = torch.stack([z.var((0, 2, 3), correction=0) for z in zs])
    return mixed_norm_sum(zs, weights, stats=(mean, var)).sin()


def with_constants(zs, weights):
    stats = (torch.full((3, 4), 0.3).double(), torch.full((3, 4), 2.0).double())
    return mixed_norm_sum(zs, weights, stats=stats, training=False).sin()


def twins(zs, weights):
    z1, z2 = (z.flatten(1) for z in zs[:2])
    return barlow_twins_loss(z1, z2 + weights.sum() * z1, scale=0.1)


FUNCTIONS = [
    plain,
    normalized,
    with_statistics,
    with_given_statistics,
    with_constants,
    twins,
]


def gradients(function, inputs):
    xs, weights = inputs
    out = function(xs, weights)
    wanted = [value for value in (*xs, weights) if value.requires_grad]
    return out.detach(), *torch.autograd.grad(out.sum(), wanted, allow_unused=True)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=range(len(LAYOUTS)))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_whole_and_once(function, layouts):
    torch._dynamo.reset()
    counter = CompileCounter()
    inputs = leaves((3, 4, 5, 2), 3, layouts=layouts, frozen=(1,))
    assert torch.compile(function, fullgraph=True, backend=counter)(*inputs) is not None
    assert counter.frame_count == 1
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = gradients(function, inputs)
    found = gradients(compiled, inputs)
    for value, other in zip(found, expected, strict=True):
        assert (value is None) == (other is None)
        if value is not None:
            torch.testing.assert_close(value, other)
            assert value.stride() == other.stride()


def test_a_second_call_does_not_compile_again():
    torch._dynamo.reset()
    counter = CompileCounter()

    def everything(xs, weights):
        return plain(xs, weights) + normalized(xs, weights) + twins(xs, weights)

    compiled = torch.compile(everything, fullgraph=True, backend=counter)
    for seed in range(3):
        xs, weights = leaves((3, 4, 5, 2), 3)
        compiled([x + seed for x in xs], weights)
    assert counter.frame_count == 1


def test_a_forced_backend_holds_for_compiled_code():
    torch._dynamo.reset()
    inputs = leaves((3, 4, 5, 2), 3)
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    with backend("torch"):
        expected = compiled(*inputs)
    with backend("reference"):
        torch.testing.assert_close(compiled(*inputs), expected)
    torch.testing.assert_close(compiled(*inputs), expected)


@pytest.mark.parametrize("dynamic", [True, None])
def test_changing_sizes(dynamic):
    torch._dynamo.reset()
    for function in (plain, normalized, twins):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for size in (3, 6, 8):
            inputs = leaves((size, 4, 5, 2), 3)
            for value, other in zip(
                gradients(compiled, inputs), gradients(function, inputs), strict=True
            ):
                torch.testing.assert_close(value, other)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_inductor(function):
    torch._dynamo.reset()
    for layouts in LAYOUTS[:3]:
        inputs = leaves((3, 4, 5, 2), 3, layouts=layouts, frozen=(1,))
        compiled = torch.compile(function, fullgraph=True)
        for value, other in zip(
            gradients(compiled, inputs), gradients(function, inputs), strict=True
        ):
            if other is not None:
                torch.testing.assert_close(value, other)


@pytest.mark.parametrize("layouts", LAYOUTS, ids=range(len(LAYOUTS)))
def test_sums_as_registered_ops(layouts):
    for dtype in (torch.float32, torch.float64):
        xs, weights = leaves((3, 4, 5, 2), 3, dtype=dtype, layouts=layouts, frozen=(1,))
        opcheck(torch.ops.ssfnas.mixed_sum.default, (xs, weights, "torch"))
        flags = [True, False, True]
        given = [torch.zeros(3, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype)]
        for stats, through in ((given, "constant"), ([None, None], "own"), (given, "given")):
            if through == "given":
                stats = [value.clone().requires_grad_() for value in stats]
            opcheck(
                torch.ops.ssfnas.mixed_norm_sum.default,
                (xs, weights, *stats, flags, through, 1e-5, "torch"),
            )


@pytest.mark.parametrize("dual", [False, True], ids=["primal", "dual"])
def test_barlow_twins_as_a_registered_op(dual):
    for n, d in ((4, 6), (6, 4)):
        z1, z2 = (draw(n, d, seed=k).requires_grad_() for k in (1, 2))
        op = torch.ops.ssfnas.barlow_twins_loss.default
        opcheck(op, (z1, z2, 0.01, 1e-5, dual, "torch"))
        opcheck(op, (z1.T.detach(), z2.T.detach(), 0.01, 1e-5, dual, "torch"))


def test_low_precision_under_autocast_when_compiled():
    torch._dynamo.reset()
    xs = [draw(3, 4, 5, 5, seed=k, dtype=torch.float32) for k in range(3)]
    xs[1] = xs[1].bfloat16()
    weights = draw(3, seed=9, dtype=torch.float32)

    def both(xs, weights):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return mixed_sum(xs, weights), mixed_norm_sum(xs, weights)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for value, other in zip(compiled(xs, weights), both(xs, weights), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, other)


@pytest.fixture
def group(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_compiled_code_breaks_only_to_communicate(group):
    torch._dynamo.reset()
    inputs = leaves((3, 4, 5, 2), 3)

    def shared(zs, weights):
        out = mixed_norm_sum([z.exp() for z in zs], weights, group=group).sin()
        z1, z2 = (z.flatten(1) for z in zs[:2])
        return out + barlow_twins_loss(z1, z2, group=group)

    def alone(zs, weights):
        out = mixed_norm_sum([z.exp() for z in zs], weights).sin()
        return out + barlow_twins_loss(zs[0].flatten(1), zs[1].flatten(1))

    compiled = torch.compile(shared, backend="aot_eager")
    for value, other in zip(gradients(compiled, inputs), gradients(alone, inputs), strict=True):
        torch.testing.assert_close(value, other)
