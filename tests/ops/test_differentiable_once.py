"""What has no second derivative says so, whatever gradient comes in."""

from __future__ import annotations

import pytest
import torch
from op_checks import draw
from torch.utils.checkpoint import checkpoint

from ssfnas.ops import (
    backend,
    barlow_twins_loss,
    candidate_operations,
    mixed_norm_sum,
    mixed_sum,
)

SHAPE = (3, 4, 5, 2)
OTHER = draw(*SHAPE, seed=8)
DEPTHWISE, POINTWISE = draw(4, 1, 3, 3, seed=5), draw(4, 4, 1, 1, seed=6)


def twins(z, weights):
    return barlow_twins_loss(z.flatten(1), (z + weights[0] * OTHER).flatten(1), lambd=0.1)


def summed(z, weights):
    return mixed_sum([z, OTHER], weights)


def normalized(z, weights):
    return mixed_norm_sum([z, OTHER], weights)


def normalized_by_given(z, weights):
    zs = [z, OTHER]
    mean = torch.stack([z.mean((0, 2, 3)) for z in zs])
    var = torch.stack([z.var((0, 2, 3), correction=0) for z in zs])
    return mixed_norm_sum(zs, weights, stats=(mean, var))


def candidates(z, weights):
    zs, _, _ = candidate_operations(z, [DEPTHWISE], [POINTWISE * weights[0]], dilations=[1])
    return zs[0]


FUNCTIONS = {
    "barlow_twins_loss": twins,
    "mixed_sum": summed,
    "mixed_norm_sum": normalized,
    "mixed_norm_sum of given statistics": normalized_by_given,
    "candidate_operations": candidates,
}
COMPILED = [name for name in FUNCTIONS if name != "candidate_operations"]


def linear(out):
    """A constant gradient comes into ``out``."""
    return (out * draw(*out.shape, seed=9)).sum()


def curved(out):
    """The gradient that comes into ``out`` depends on it."""
    return out.square().sum()


def leaves():
    return draw(*SHAPE, seed=1).requires_grad_(), draw(2, seed=2).requires_grad_()


@pytest.mark.parametrize("after", [linear, curved])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_of_the_gradient_is_refused(name, after):
    words = rf"{name.split()[0]} is differentiable once.*backend\(\"reference\"\)"
    inputs = leaves()
    loss = after(FUNCTIONS[name](*inputs))
    for leaf in inputs:
        with pytest.raises(RuntimeError, match=words):
            torch.autograd.grad(loss, leaf, create_graph=True)
    # Refused before anything is computed: the graph is whole.
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for value, again in zip(first, torch.autograd.grad(loss, inputs), strict=True):
        assert torch.equal(value, again)


@pytest.mark.parametrize("after", [linear, curved])
@pytest.mark.parametrize("name", COMPILED)
def test_so_do_the_ops_that_compiled_code_calls(name, after):
    torch._dynamo.reset()
    inputs = leaves()
    loss = after(torch.compile(FUNCTIONS[name], fullgraph=True, backend="eager")(*inputs))
    with pytest.raises(RuntimeError, match=r"differentiable once.*backend\(\"reference\"\)"):
        torch.autograd.grad(loss, inputs, create_graph=True)


@pytest.mark.parametrize("after", [linear, curved])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_the_message_says_helps(name, after):
    def first(z, weights):
        with backend("reference"):
            loss = after(FUNCTIONS[name](z, weights))
        return torch.autograd.grad(loss, (z, weights), create_graph=True)

    assert torch.autograd.gradcheck(first, leaves())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_recomputation_asks_for_no_graph(name, reentrant):
    function, inputs = FUNCTIONS[name], leaves()
    expected = torch.autograd.grad(curved(function(*inputs)), inputs)
    curved(checkpoint(function, *inputs, use_reentrant=reentrant)).backward()
    for leaf, value in zip(inputs, expected, strict=True):
        assert torch.equal(leaf.grad, value)
